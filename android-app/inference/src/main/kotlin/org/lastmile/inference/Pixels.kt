package org.lastmile.inference

/** Decoded pixels: one byte a value, rows from the top, [channels] values side by side. */
class Pixels(val width: Int, val height: Int, val channels: Int, val values: ByteArray) {
    init {
        require(values.size == width * height * channels) { "$width×$height×$channels pixels are not ${values.size} values" }
    }

    private operator fun get(index: Int): Int = values[index].toInt() and 0xff

    /** In another colour: grey is (19595 R + 38470 G + 7471 B + 32768) >> 16, as Pillow makes it. */
    fun converted(color: String): Pixels {
        val wanted = if (color == "L") 1 else 3
        if (wanted == channels) return this
        val count = width * height
        val made =
            if (wanted == 1) {
                ByteArray(count) { ((this[3 * it] * 19595 + this[3 * it + 1] * 38470 + this[3 * it + 2] * 7471 + 0x8000) shr 16).toByte() }
            } else {
                ByteArray(3 * count) { values[it / 3] }
            }
        return Pixels(width, height, wanted, made)
    }

    /** As the model takes it: the colour, the shorter side scaled, the centre cut; see [Preprocessing]. */
    fun fitted(preprocessing: Preprocessing): Pixels {
        if (maxOf(width, height).toLong() > NARROWEST * minOf(width, height)) { // scaled up, it would need gigabytes
            throw InferenceException("sides of $width×$height pixels: one is more than $NARROWEST times the other")
        }
        val converted = converted(preprocessing.color)
        val shorter = minOf(width, height)
        val scaled =
            if (shorter == preprocessing.resize) {
                converted
            } else {
                converted.resized(scaledSide(preprocessing.resize, width, shorter), scaledSide(preprocessing.resize, height, shorter))
            }
        return scaled.cropped(preprocessing.crop)
    }

    /** The values for an input: 0–255, channels last or, for "NCHW", first. */
    fun input(layout: String?): FloatArray {
        val area = width * height
        return if (layout == "NCHW") {
            FloatArray(values.size) { this[it % area * channels + it / area].toFloat() }
        } else {
            FloatArray(values.size) { this[it].toFloat() }
        }
    }

    /** Pillow's bilinear filter, whose support grows with the reduction (antialiased): its arithmetic, bit for bit. */
    fun resized(
        newWidth: Int,
        newHeight: Int
    ): Pixels {
        if (newWidth.toLong() * newHeight > LARGEST) throw InferenceException("a picture of $width×$height pixels is too narrow to be scaled")
        val wide = if (newWidth == width) this else Pixels(newWidth, height, channels, ByteArray(newWidth * height * channels).also { across(it, newWidth) })
        return if (newHeight ==
            height
        ) {
            wide
        } else {
            Pixels(newWidth, newHeight, channels, ByteArray(newWidth * newHeight * channels).also { wide.down(it, newHeight) })
        }
    }

    private fun across(
        made: ByteArray,
        newWidth: Int
    ) {
        val weights = Weights.of(width, newWidth)
        for (y in 0 until height) {
            for (x in 0 until newWidth) {
                for (c in 0 until channels) {
                    made[(y * newWidth + x) * channels + c] = weights.sum(x) { this[(y * width + it) * channels + c] }
                }
            }
        }
    }

    private fun down(
        made: ByteArray,
        newHeight: Int
    ) {
        val weights = Weights.of(height, newHeight)
        val row = width * channels
        for (y in 0 until newHeight) {
            for (i in 0 until row) made[y * row + i] = weights.sum(y) { this[it * row + i] }
        }
    }

    private fun cropped(side: Int): Pixels {
        if (width == side && height == side) return this
        val left = (width - side) / 2
        val top = (height - side) / 2
        val made = ByteArray(side * side * channels)
        for (y in 0 until side) {
            val source = ((top + y) * width + left) * channels
            values.copyInto(made, y * side * channels, source, source + side * channels)
        }
        return Pixels(side, side, channels, made)
    }

    private companion object {
        const val LARGEST = 64_000_000L
        const val NARROWEST = 100L

        /** A side that is scaled as the shorter one is to [resize]: cut, not rounded. */
        fun scaledSide(
            resize: Int,
            side: Int,
            shorter: Int
        ): Int = (resize.toDouble() * side / shorter).toInt()
    }
}

/**
 * What each new pixel takes from which old ones, in fixed point with 22 bits after the point.
 *
 * Source: Pillow's src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc and ImagingResampleHorizontal_8bpc.
 */
private class Weights(private val first: IntArray, private val each: Array<IntArray>) {
    inline fun sum(
        index: Int,
        value: (Int) -> Int
    ): Byte {
        val weights = each[index]
        var sum = 1 shl (BITS - 1)
        for (i in weights.indices) sum += value(first[index] + i) * weights[i]
        return (sum shr BITS).coerceIn(0, 255).toByte()
    }

    companion object {
        const val BITS = 22

        fun of(
            old: Int,
            new: Int
        ): Weights {
            val scale = old.toDouble() / new
            val support = maxOf(scale, 1.0) // the bilinear filter reaches 1 to each side
            val first = IntArray(new)
            val each =
                Array(new) { index ->
                    val center = (index + 0.5) * scale
                    first[index] = maxOf(0, (center - support + 0.5).toInt())
                    val end = minOf(old, (center + support + 0.5).toInt())
                    val real = DoubleArray(end - first[index]) { maxOf(0.0, 1.0 - Math.abs((it + first[index] - center + 0.5) * (1.0 / support))) }
                    fixed(real)
                }
            return Weights(first, each)
        }

        private fun fixed(real: DoubleArray): IntArray {
            val total = real.sum()
            return IntArray(real.size) { (0.5 + real[it] / total * (1 shl BITS)).toInt() }
        }
    }
}
