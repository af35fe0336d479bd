package org.lastmile.app

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.util.Random
import org.lastmile.inference.DType
import org.lastmile.inference.InferenceException
import org.lastmile.inference.TensorInfo
import org.lastmile.inference.moved

/**
 * A .npy file of samples (N, …), mapped and not read into memory.
 *
 * @property toNchw whether samples (H, W, C) are turned to channels first.
 */
class Samples(private val file: File, private val toNchw: Boolean) {
    private val shape: List<Int>
    private val kind: String
    private val data: ByteBuffer

    /** How many there are. */
    val count: Int get() = shape[0]

    init {
        val whole = RandomAccessFile(file, "r").use { it.channel.map(FileChannel.MapMode.READ_ONLY, 0, it.length()) }
        whole.order(ByteOrder.LITTLE_ENDIAN)
        val (text, start) = header(whole)
        kind = DESCR.find(text)?.groupValues?.get(1) ?: broken("no element type")
        if (kind !in SIZES) throw InferenceException("$file holds $kind; samples are real numbers in this machine's order of bytes")
        if ("'fortran_order': False" !in text) throw InferenceException("$file is in Fortran's order; write it with numpy.ascontiguousarray")
        val sizes = SHAPE.find(text)?.groupValues?.get(1) ?: broken("no shape")
        shape = sizes.split(',').map { it.trim() }.filter { it.isNotEmpty() }.map { it.toIntOrNull() ?: broken("shape ($sizes)") }
        if (shape.isEmpty() || shape[0] == 0) throw InferenceException("$file has shape $shape; it holds no sample")
        if (toNchw && shape.size != 4) throw InferenceException("$file has shape $shape; --layout NCHW needs samples of (N, H, W, C)")
        val wanted = shape.fold(SIZES.getValue(kind).toLong()) { bytes, size -> Math.multiplyExact(bytes, size.toLong()) }
        if (whole.limit() - start < wanted) broken("${whole.limit() - start} of $wanted bytes: it was cut short")
        moved(whole, start)
        data = whole.slice().order(ByteOrder.LITTLE_ENDIAN)
    }

    /** The model's only input, when the samples fit it. */
    fun check(inputs: List<TensorInfo>): TensorInfo {
        val info = inputs.singleOrNull() ?: throw InferenceException("the model has ${inputs.size} inputs; samples can be given for one only")
        val sample = if (toNchw) listOf(shape[3], shape[1], shape[2]) else shape.drop(1)
        if (info.shape.firstOrNull() != 1) throw InferenceException("input ${info.name} has shape ${info.shape}; export the model for a batch of 1")
        if (sample != info.shape.drop(1)) throw InferenceException("$file has samples of shape $sample, input ${info.name} wants ${info.shape.drop(1)}")
        return info
    }

    /** Sample [index], in the model's layout. */
    fun get(index: Int): FloatArray {
        val size = shape.drop(1).fold(1, Int::times)
        val values = FloatArray(size) { value(index.toLong() * size + it) }
        if (!toNchw) return values
        val (height, width, channels) = shape.drop(1)
        return FloatArray(size) { values[(it % (height * width)) * channels + it / (height * width)] }
    }

    private fun value(index: Long): Float {
        val at = Math.toIntExact(index * SIZES.getValue(kind))
        return when (kind) {
            "<f4" -> data.getFloat(at)
            "<f8" -> data.getDouble(at).toFloat()
            "|u1" -> (data.get(at).toInt() and 0xff).toFloat()
            "|i1", "|b1" -> data.get(at).toFloat()
            "<i2" -> data.getShort(at).toFloat()
            "<i4" -> data.getInt(at).toFloat()
            else -> data.getLong(at).toFloat()
        }
    }

    private fun header(whole: ByteBuffer): Pair<String, Int> {
        if (whole.limit() < 12 || !MAGIC.indices.all { whole.get(it) == MAGIC[it] }) {
            throw InferenceException("$file is not a .npy file; write the samples with numpy.save")
        }
        val long = whole.get(6) > 1 // version 2 has four bytes for the header's length
        val length = if (long) whole.getInt(8) else whole.getShort(8).toInt() and 0xffff
        val begin = if (long) 12 else 10
        if (length < 0 || length > whole.limit() - begin) broken("its header goes beyond its end")
        return String(ByteArray(length) { whole.get(begin + it) }, Charsets.ISO_8859_1) to begin + length
    }

    private fun broken(why: String): Nothing = throw InferenceException("$file cannot be read as a .npy file ($why)")

    companion object {
        private val MAGIC = "\u0093NUMPY".toByteArray(Charsets.ISO_8859_1)
        private val SIZES = mapOf("<f4" to 4, "<f8" to 8, "|u1" to 1, "|i1" to 1, "|b1" to 1, "<i2" to 2, "<i4" to 4, "<i8" to 8)
        private val DESCR = Regex("'descr': '([^']*)'")
        private val SHAPE = Regex("'shape': \\(([^)]*)\\)")

        /** A fixed input for timing: floats in [0, 1), 8-bit integers over their whole range, other integers 0 or 1. */
        fun pseudoRandom(info: TensorInfo): ByteBuffer {
            val random = Random(0)
            val buffer = info.buffer()
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
