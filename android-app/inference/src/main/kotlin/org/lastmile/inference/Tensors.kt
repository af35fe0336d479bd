package org.lastmile.inference

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What a model, its file or its input cannot be; the message is one sentence for people. */
class InferenceException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** An element type; [label] is numpy's name of it. */
enum class DType(val label: String, val bytes: Int) {
    FLOAT32("float32", 4),
    INT8("int8", 1),
    UINT8("uint8", 1),
    INT32("int32", 4),
    INT64("int64", 8)
    ;

    companion object {
        /** The type of that name, or an [InferenceException] that lists the known ones. */
        fun of(label: String): DType =
            entries.find { it.label == label }
                ?: throw InferenceException("$label is no type that can be fed; known: ${entries.joinToString { it.label }}")
    }
}

/**
 * One input or output of a model.
 *
 * @property shape with the batch axis.
 * @property scale and [zeroPoint]: real = (stored - zeroPoint) * scale; null where the file does not say.
 */
data class TensorInfo(
    val name: String,
    val shape: List<Int>,
    val dtype: DType,
    val scale: Float? = null,
    val zeroPoint: Int? = null
) {
    /** How many values it holds. */
    val size: Int get() = shape.fold(1, Math::multiplyExact)

    /** A direct buffer for it, in the order of this machine's bytes. */
    fun buffer(): ByteBuffer = ByteBuffer.allocateDirect(Math.multiplyExact(size, dtype.bytes)).order(ByteOrder.nativeOrder())

    /**
     * Writes real values as the model takes them: rounded to even as round(x / scale) + zeroPoint and clipped where the
     * input has a scale, else cast.
     */
    fun fill(values: FloatArray, target: ByteBuffer) {
        if (values.size != size) throw InferenceException("input $name takes $size values, not ${values.size}")
        when (dtype) {
            DType.FLOAT32 -> target.asFloatBuffer().put(values)
            DType.INT8 -> for (i in values.indices) target.put(i, stored(values[i], -128f, 127f).toInt().toByte())
            DType.UINT8 -> for (i in values.indices) target.put(i, stored(values[i], 0f, 255f).toInt().toByte())
            DType.INT32 -> for (i in values.indices) target.putInt(4 * i, whole(values[i]).toInt())
            DType.INT64 -> for (i in values.indices) target.putLong(8 * i, whole(values[i]).toLong())
        }
    }

    /** The real values of an output: (stored - zeroPoint) * scale in float32 where it has a scale, else cast. */
    fun real(source: ByteBuffer): FloatArray {
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

    private fun stored(value: Float, least: Float, most: Float): Float {
        val steps = if (scale == null || zeroPoint == null) whole(value) else Math.rint((value / scale).toDouble()).toFloat() + zeroPoint
        if (steps.isNaN()) throw InferenceException("the input holds values that are no numbers, which ${dtype.label} cannot hold")
        if (scale == null && (steps < least || steps > most)) {
            throw InferenceException("the input holds $value, which ${dtype.label} cannot, and input $name has no scale to quantize with")
        }
        return steps.coerceIn(least, most)
    }

    private fun whole(value: Float): Float {
        if (value.isNaN() || value != Math.rint(value.toDouble()).toFloat()) {
            throw InferenceException("the input holds $value, which ${dtype.label} cannot, and input $name has no scale to quantize with")
        }
        return value
    }

    private fun dequantized(steps: Int): Float =
        if (scale == null || zeroPoint == null) steps.toFloat() else (steps - zeroPoint).toFloat() * scale
}

/** Sets a buffer's position by the method that every Android has: compiled on a newer JDK, ByteBuffer's own is another one. */
fun moved(buffer: Buffer, position: Int) {
    buffer.position(position)
}
