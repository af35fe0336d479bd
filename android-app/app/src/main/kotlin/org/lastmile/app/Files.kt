package org.lastmile.app

import java.io.Closeable
import java.io.File
import java.io.FileOutputStream
import java.io.InputStream
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.GregorianCalendar
import java.util.zip.CRC32
import java.util.zip.CheckedInputStream
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import org.lastmile.inference.InferenceException
import org.lastmile.inference.writeAtomically

/** The rows of one output, as float32. They are written to a file in [folder] until [writeNpz] takes them: together they may exceed the memory. */
class NpyRows(private val name: String, folder: File) : Closeable {
    private val file = File.createTempFile(".tmp-rows", null, folder)
    private val content = FileOutputStream(file).buffered()
    private var shape: List<Int>? = null

    /** Adds a row. All rows must have the same shape. */
    fun append(
        row: FloatArray,
        rowShape: List<Int>
    ) {
        if (shape != null && shape != rowShape) throw InferenceException("the shape of output $name changes from $shape to $rowShape")
        shape = rowShape
        content.write(littleEndian(row))
    }

    /** All rows as a .npy file. */
    fun npy(count: Int): Npy {
        content.flush()
        return Npy(npyHeader("<f4", listOf(count) + shape.orEmpty()), file.length()) { file.inputStream() }
    }

    override fun close() {
        content.close()
        file.delete()
    }
}

/** A .npy file: its header, and [bytes] of content. */
class Npy(val header: ByteArray, val bytes: Long, val open: () -> InputStream)

/** An array as a .npy file. [descr] is numpy's type string, such as "<f4" or "|u1". */
fun npy(
    descr: String,
    shape: List<Int>,
    content: ByteArray
) = Npy(npyHeader(descr, shape), content.size.toLong()) { content.inputStream() }

private fun npyHeader(
    descr: String,
    shape: List<Int>
): ByteArray {
    val tuple = shape.joinToString(", ", "(", if (shape.size == 1) ",)" else ")")
    val text = "{'descr': '$descr', 'fortran_order': False, 'shape': $tuple, }"
    val length = (10 + text.length + 1 + 63) / 64 * 64 - 10
    val header = text.padEnd(length - 1) + "\n"
    val lengthBytes = byteArrayOf((length and 0xff).toByte(), (length shr 8).toByte())
    return "\u0093NUMPY\u0001\u0000".toByteArray(Charsets.ISO_8859_1) + lengthBytes + header.toByteArray(Charsets.ISO_8859_1)
}

/** The bytes of a float32 array in a .npy file. */
fun littleEndian(values: FloatArray): ByteArray {
    val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(values)
    return bytes.array()
}

/** Writes .npy files to an .npz archive. Timestamps are fixed, so the same arrays give the same bytes. */
fun writeNpz(
    file: File,
    arrays: Map<String, Npy>
) = writeAtomically(file) { target ->
    val archive = ZipOutputStream(target)
    for ((name, content) in arrays) {
        val entry = ZipEntry("$name.npy")
        entry.method = ZipEntry.STORED
        entry.size = content.header.size + content.bytes
        entry.crc = crc(content)
        entry.time = GregorianCalendar(1980, 0, 1).timeInMillis
        archive.putNextEntry(entry)
        archive.write(content.header)
        content.open().use { it.copyTo(archive) }
        archive.closeEntry()
    }
    archive.finish()
}

private fun crc(content: Npy): Long {
    val crc = CRC32().also { it.update(content.header) }
    val nowhere =
        object : OutputStream() {
            override fun write(byte: Int) = Unit

            override fun write(
                bytes: ByteArray,
                start: Int,
                count: Int
            ) = Unit
        }
    content.open().use { CheckedInputStream(it, crc).copyTo(nowhere) }
    return crc.value
}
