package org.lastmile.app

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.GregorianCalendar
import java.util.zip.CRC32
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import org.lastmile.inference.InferenceException

/** Writes a file, whole or not at all: a temporary name beside it, then a rename. */
fun writeWhole(file: File, write: (OutputStream) -> Unit) {
    val temporary = File(file.parentFile, ".tmp-${file.name}")
    try {
        FileOutputStream(temporary).use {
            write(it)
            it.flush()
            it.fd.sync()
        }
        if (!temporary.renameTo(file)) throw IOException("cannot rename to $file")
    } finally {
        temporary.delete()
    }
}

/** One output's rows, of float32; the samples of a call are few enough for memory (the host asks in chunks). */
class NpyRows(private val name: String) {
    private val content = ByteArrayOutputStream()
    private var shape: List<Int>? = null

    /** Adds a row of this shape, which must be every row's. */
    fun append(
        row: FloatArray,
        rowShape: List<Int>
    ) {
        if (shape != null && shape != rowShape) throw InferenceException("output $name changes shape from $shape to $rowShape")
        shape = rowShape
        content.write(littleEndian(row))
    }

    /** All rows as a .npy file. */
    fun npy(count: Int): ByteArray {
        val sizes = listOf(count) + shape.orEmpty()
        return npy("<f4", sizes, content.toByteArray())
    }
}

/** An array as a .npy file: [descr] is numpy's name of the element type, "<f4" or "|u1". */
fun npy(
    descr: String,
    shape: List<Int>,
    content: ByteArray
): ByteArray {
    val tuple = shape.joinToString(", ", "(", if (shape.size == 1) ",)" else ")")
    val text = "{'descr': '$descr', 'fortran_order': False, 'shape': $tuple, }"
    val length = (10 + text.length + 1 + 63) / 64 * 64 - 10
    val header = text.padEnd(length - 1) + "\n"
    val lengthBytes = byteArrayOf((length and 0xff).toByte(), (length shr 8).toByte())
    return "\u0093NUMPY\u0001\u0000".toByteArray(Charsets.ISO_8859_1) + lengthBytes + header.toByteArray(Charsets.ISO_8859_1) + content
}

/** The bytes of an array of float32 in a .npy file. */
fun littleEndian(values: FloatArray): ByteArray {
    val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(values)
    return bytes.array()
}

/** An .npz of these .npy files; dates are fixed, so the same arrays give the same bytes. */
fun writeNpz(
    file: File,
    arrays: Map<String, ByteArray>
) = writeWhole(file) { target ->
    val archive = ZipOutputStream(target)
    for ((name, content) in arrays) {
        val entry = ZipEntry("$name.npy")
        entry.method = ZipEntry.STORED
        entry.size = content.size.toLong()
        entry.crc = CRC32().also { it.update(content) }.value
        entry.time = GregorianCalendar(1980, 0, 1).timeInMillis
        archive.putNextEntry(entry)
        archive.write(content)
        archive.closeEntry()
    }
    archive.finish()
}
