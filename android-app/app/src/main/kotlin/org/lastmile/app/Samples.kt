package org.lastmile.app

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Random
import org.lastmile.inference.DType
import org.lastmile.inference.InferenceException
import org.lastmile.inference.TensorInfo

/**
 * A .npy file of samples (N, …) of any size: each sample is read when it is used. A mapping would end at 2 GB.
 *
 * @property toNchw whether to transpose samples (H, W, C) to (C, H, W).
 */
class Samples(private val file: File, private val toNchw: Boolean) {
    private val shape: List<Int>
    private val type: String
    private val start: Long

    /** The number of samples. */
    val count: Int get() = shape[0]

    init {
        val bytes = file.length()
        val (header, begin) = readHeader(read(0, minOf(bytes, MAX_HEADER_BYTES).toInt()))
        start = begin.toLong()
        type = DESCR.find(header)?.groupValues?.get(1) ?: invalid("no element type")
        if (type !in SIZES) throw InferenceException("$file contains $type; samples must be real numbers in little-endian byte order")
        if ("'fortran_order': False" !in header) throw InferenceException("$file is in Fortran order; write it with numpy.ascontiguousarray")
        val sizes = SHAPE.find(header)?.groupValues?.get(1) ?: invalid("no shape")
        shape = sizes.split(',').map { it.trim() }.filter { it.isNotEmpty() }.map { it.toIntOrNull() ?: invalid("shape ($sizes)") }
        if (shape.isEmpty() || shape[0] == 0) throw InferenceException("$file has shape $shape; it contains no samples")
        if (toNchw && shape.size != 4) throw InferenceException("$file has shape $shape; --layout NCHW requires samples of shape (N, H, W, C)")
        val expected = shape.fold(SIZES.getValue(type).toLong()) { product, size -> Math.multiplyExact(product, size.toLong()) }
        if (bytes - start < expected) invalid("truncated: ${bytes - start} of $expected bytes")
        if (expected / count > Int.MAX_VALUE) throw InferenceException("$file has samples of ${expected / count} bytes; the limit is 2 GB each")
    }

    /** Checks that the model has one input and that the samples have its shape. Returns the input. */
    fun matchInput(inputs: List<TensorInfo>): TensorInfo {
        val info = inputs.singleOrNull() ?: throw InferenceException("the model has ${inputs.size} inputs; samples are supported for models with one input")
        val sample = if (toNchw) listOf(shape[3], shape[1], shape[2]) else shape.drop(1)
        if (info.shape.firstOrNull() != 1) throw InferenceException("input ${info.name} has shape ${info.shape}; export the model with batch size 1")
        if (sample != info.shape.drop(1)) throw InferenceException("$file has samples of shape $sample; input ${info.name} requires ${info.shape.drop(1)}")
        return info
    }

    /** Sample [index] in the model's layout. */
    fun get(index: Int): FloatArray {
        val size = shape.drop(1).fold(1, Int::times)
        val bytes = size * SIZES.getValue(type)
        val data = read(start + index.toLong() * bytes, bytes)
        val values = FloatArray(size) { value(data, it) }
        if (!toNchw) return values
        val (height, width, channels) = shape.drop(1)
        return FloatArray(size) { values[(it % (height * width)) * channels + it / (height * width)] }
    }

    private fun read(
        at: Long,
        count: Int
    ): ByteBuffer {
        val bytes = ByteArray(count)
        RandomAccessFile(file, "r").use {
            it.seek(at)
            it.readFully(bytes)
        }
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    }

    private fun value(
        data: ByteBuffer,
        index: Int
    ): Float {
        val at = index * SIZES.getValue(type)
        return when (type) {
            "<f4" -> data.getFloat(at)
            "<f8" -> data.getDouble(at).toFloat()
            "|u1" -> (data.get(at).toInt() and 0xff).toFloat()
            "|i1", "|b1" -> data.get(at).toFloat()
            "<i2" -> data.getShort(at).toFloat()
            "<i4" -> data.getInt(at).toFloat()
            else -> data.getLong(at).toFloat()
        }
    }

    private fun readHeader(bytes: ByteBuffer): Pair<String, Int> {
        if (bytes.limit() < 12 || !MAGIC.indices.all { bytes.get(it) == MAGIC[it] }) {
            throw InferenceException("$file is not a .npy file; write the samples with numpy.save")
        }
        val long = bytes.get(6) > 1 // from version 2 on, the header's length has four bytes
        val length = if (long) bytes.getInt(8) else bytes.getShort(8).toInt() and 0xffff
        val begin = if (long) 12 else 10
        if (length < 0 || length > bytes.limit() - begin) invalid("the header extends beyond the end of the file, or has more than $MAX_HEADER_BYTES bytes")
        return String(ByteArray(length) { bytes.get(begin + it) }, Charsets.ISO_8859_1) to begin + length
    }

    private fun invalid(reason: String): Nothing = throw InferenceException("$file is not a valid .npy file ($reason)")

    companion object {
        private const val MAX_HEADER_BYTES = 1L shl 20
        private val MAGIC = "\u0093NUMPY".toByteArray(Charsets.ISO_8859_1)
        private val SIZES = mapOf("<f4" to 4, "<f8" to 8, "|u1" to 1, "|i1" to 1, "|b1" to 1, "<i2" to 2, "<i4" to 4, "<i8" to 8)
        private val DESCR = Regex("'descr': '([^']*)'")
        private val SHAPE = Regex("'shape': \\(([^)]*)\\)")

        /** A fixed pseudo-random input for timing: floats in [0, 1), 8-bit integers over their full range, other integers 0 or 1. */
        fun pseudoRandom(info: TensorInfo): ByteBuffer {
            val random = Random(0)
            val buffer = info.allocate()
            when (info.dtype) {
                DType.FLOAT32 -> repeat(info.size) { buffer.putFloat(4 * it, random.nextFloat()) }
                DType.INT8, DType.UINT8 -> repeat(info.size) { buffer.put(it, random.nextInt(256).toByte()) }
                DType.INT32 -> repeat(info.size) { buffer.putInt(4 * it, random.nextInt(2)) }
                DType.INT64 -> repeat(info.size) { buffer.putLong(8 * it, random.nextInt(2).toLong()) }
            }
            return buffer
        }
    }
}
