package org.lastmile.inference

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** An invalid or unsupported model, model file or input. The message is one sentence that can be shown to users. */
class InferenceException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** An element type. */
enum class DType(val numpyName: String, val bytes: Int) {
    FLOAT32("float32", 4),
    INT8("int8", 1),
    UINT8("uint8", 1),
    INT32("int32", 4),
    INT64("int64", 8)
}

/**
 * One input or output of a model.
 *
 * @property shape the shape, including the batch axis.
 * @property scale the quantization scale: real = (stored - [zeroPoint]) * scale; null if the file has none.
 */
data class TensorInfo(
    val name: String,
    val shape: List<Int>,
    val dtype: DType,
    val scale: Float? = null,
    val zeroPoint: Int? = null
) {
    /** The number of values. Throws an [InferenceException] if they do not fit into one buffer. */
    val size: Int
        get() {
            var count = 1L
            for (length in shape) {
                count *= length
                if (count * dtype.bytes > Int.MAX_VALUE) throw InferenceException("$name has shape $shape; a buffer in Java has at most 2 GB")
            }
            return count.toInt()
        }

    /** Allocates a direct buffer for the tensor, in native byte order. */
    fun allocate(): ByteBuffer = ByteBuffer.allocateDirect(size * dtype.bytes).order(ByteOrder.nativeOrder())

    /**
     * Writes real values in the tensor's type. With a scale they are quantized: round(x / scale) + zeroPoint, with halves rounded
     * to even, clipped to the type's range. Without a scale they are cast.
     */
    fun write(values: FloatArray, target: ByteBuffer) {
        if (values.size != size) throw InferenceException("input $name takes $size values, not ${values.size}")
        when (dtype) {
            DType.FLOAT32 -> target.asFloatBuffer().put(values)
            DType.INT8 -> for (i in values.indices) target.put(i, quantized(values[i], -128f, 127f).toInt().toByte())
            DType.UINT8 -> for (i in values.indices) target.put(i, quantized(values[i], 0f, 255f).toInt().toByte())
            DType.INT32 -> for (i in values.indices) target.putInt(4 * i, integer(values[i]).toInt())
            DType.INT64 -> for (i in values.indices) target.putLong(8 * i, integer(values[i]).toLong())
        }
    }

    /** Reads real values: (stored - zeroPoint) * scale in float32 if the tensor has a scale, otherwise cast. */
    fun read(source: ByteBuffer): FloatArray {
        val values = FloatArray(source.remaining() / dtype.bytes)
        val start = source.position()
        when (dtype) {
            DType.FLOAT32 -> source.asFloatBuffer().get(values)
            DType.INT8 -> for (i in values.indices) values[i] = dequantized(source.get(start + i).toInt())
            DType.UINT8 -> for (i in values.indices) values[i] = dequantized(source.get(start + i).toInt() and 0xff)
            DType.INT32 -> for (i in values.indices) values[i] = source.getInt(start + 4 * i).toFloat()
            DType.INT64 -> for (i in values.indices) values[i] = source.getLong(start + 8 * i).toFloat()
        }
        return values
    }

    private fun quantized(value: Float, min: Float, max: Float): Float {
        val stored = if (scale == null || zeroPoint == null) integer(value) else Math.rint((value / scale).toDouble()).toFloat() + zeroPoint
        if (stored.isNaN()) throw InferenceException("the input contains NaN, which ${dtype.numpyName} cannot represent")
        if (scale == null && (stored < min || stored > max)) throw notRepresentable(value)
        return stored.coerceIn(min, max)
    }

    private fun integer(value: Float): Float {
        if (value.isNaN() || value != Math.rint(value.toDouble()).toFloat()) throw notRepresentable(value)
        return value
    }

    private fun notRepresentable(value: Float) =
        InferenceException("the input contains $value, which ${dtype.numpyName} cannot represent, and input $name has no quantization scale")

    private fun dequantized(stored: Int): Float =
        if (scale == null || zeroPoint == null) stored.toFloat() else (stored - zeroPoint).toFloat() * scale
}

/** Sets a buffer's position with the method that every Android version has; newer JDKs would compile a call to ByteBuffer's own override. */
fun setPosition(buffer: Buffer, position: Int) {
    buffer.position(position)
}
