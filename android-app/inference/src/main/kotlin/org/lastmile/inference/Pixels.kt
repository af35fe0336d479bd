package org.lastmile.inference

/** Decoded pixels: one byte per value, rows from top to bottom, the [channels] of each pixel interleaved. */
class Pixels(val width: Int, val height: Int, val channels: Int, val values: ByteArray) {
    init {
        require(values.size == width * height * channels) { "$width×$height×$channels pixels need ${width * height * channels} values, not ${values.size}" }
    }

    private operator fun get(index: Int): Int = values[index].toInt() and 0xff

    /** Converts to "RGB" or "L". Grayscale is (19595 R + 38470 G + 7471 B + 32768) >> 16, as in Pillow. */
    fun convertedTo(color: String): Pixels {
        val newChannels = if (color == "L") 1 else 3
        if (newChannels == channels) return this
        val count = width * height
        val converted =
            if (newChannels == 1) {
                ByteArray(count) { ((this[3 * it] * 19595 + this[3 * it + 1] * 38470 + this[3 * it + 2] * 7471 + 0x8000) shr 16).toByte() }
            } else {
                ByteArray(3 * count) { values[it / 3] }
            }
        return Pixels(width, height, newChannels, converted)
    }

    /** Converts the color, then resizes the shorter side and crops the center, or fits the whole image; see [Preprocessing]. */
    fun preprocessed(preprocessing: Preprocessing): Pixels {
        if (maxOf(width, height).toLong() > MAX_ASPECT_RATIO * minOf(width, height)) { // scaled up, it would need gigabytes
            throw InferenceException("the image of $width×$height pixels is too narrow; the longer side may be at most $MAX_ASPECT_RATIO times the shorter")
        }
        val recolored = convertedTo(preprocessing.color)
        if (preprocessing.fit == "letterbox") return recolored.letterboxed(preprocessing.crop)
        val shorter = minOf(width, height)
        val scaled =
            if (shorter == preprocessing.resize) {
                recolored
            } else {
                recolored.resized(scaledSide(preprocessing.resize, width, shorter), scaledSide(preprocessing.resize, height, shorter))
            }
        return scaled.centerCropped(preprocessing.crop)
    }

    /** The values as a model's input: 0–255, channels first for the layout "NCHW", otherwise last. */
    fun toFloats(layout: String?): FloatArray {
        val area = width * height
        return if (layout == "NCHW") {
            FloatArray(values.size) { this[it % area * channels + it / area].toFloat() }
        } else {
            FloatArray(values.size) { this[it].toFloat() }
        }
    }

    /** Resizes with Pillow's antialiased bilinear filter, whose support grows with the reduction, bit for bit. */
    fun resized(
        newWidth: Int,
        newHeight: Int
    ): Pixels {
        if (newWidth.toLong() * newHeight > MAX_PIXELS) throw InferenceException("the image of $width×$height pixels is too narrow to be resized")
        val horizontal = if (newWidth == width) this else resizedHorizontally(newWidth)
        return if (newHeight == height) horizontal else horizontal.resizedVertically(newHeight)
    }

    private fun resizedHorizontally(newWidth: Int): Pixels {
        val weights = Weights.of(width, newWidth)
        val resized = ByteArray(newWidth * height * channels)
        for (y in 0 until height) {
            for (x in 0 until newWidth) {
                for (c in 0 until channels) {
                    resized[(y * newWidth + x) * channels + c] = weights.sum(x) { this[(y * width + it) * channels + c] }
                }
            }
        }
        return Pixels(newWidth, height, channels, resized)
    }

    private fun resizedVertically(newHeight: Int): Pixels {
        val weights = Weights.of(height, newHeight)
        val row = width * channels
        val resized = ByteArray(newHeight * row)
        for (y in 0 until newHeight) {
            for (i in 0 until row) resized[y * row + i] = weights.sum(y) { this[it * row + i] }
        }
        return Pixels(width, newHeight, channels, resized)
    }

    private fun centerCropped(side: Int): Pixels {
        if (width == side && height == side) return this
        val left = (width - side) / 2
        val top = (height - side) / 2
        val cropped = ByteArray(side * side * channels)
        for (y in 0 until side) {
            val source = ((top + y) * width + left) * channels
            values.copyInto(cropped, y * side * channels, source, source + side * channels)
        }
        return Pixels(side, side, channels, cropped)
    }

    /** Fits the image into a square as Pillow's ImageOps.pad does, bit for bit: sides and margins are rounded half to even. */
    private fun letterboxed(side: Int): Pixels {
        val newWidth = if (width >= height) side else Math.rint(width.toDouble() / height * side).toInt()
        val newHeight = if (height >= width) side else Math.rint(height.toDouble() / width * side).toInt()
        val filled = ByteArray(side * side * channels) { GRAY }
        if (newWidth == 0 || newHeight == 0) return Pixels(side, side, channels, filled)
        val scaled = resized(newWidth, newHeight)
        val left = Math.rint((side - newWidth) * 0.5).toInt()
        val top = Math.rint((side - newHeight) * 0.5).toInt()
        for (y in 0 until newHeight) {
            val source = y * newWidth * channels
            scaled.values.copyInto(filled, ((top + y) * side + left) * channels, source, source + newWidth * channels)
        }
        return Pixels(side, side, channels, filled)
    }

    private companion object {
        /** What a letterbox is filled with. */
        const val GRAY: Byte = 114
        const val MAX_PIXELS = 64_000_000L
        const val MAX_ASPECT_RATIO = 100L

        /** The length of [side] when [shorter] is resized to [resize]: truncated, not rounded. */
        fun scaledSide(
            resize: Int,
            side: Int,
            shorter: Int
        ): Int = (resize.toDouble() * side / shorter).toInt()
    }
}

/**
 * The filter coefficients of each new pixel, in fixed point with 22 fractional bits.
 *
 * @property first for each new pixel, the first old pixel that contributes to it.
 * @property coefficients for each new pixel, the coefficients of that old pixel and the ones after it.
 *
 * Source: Pillow's src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc and ImagingResampleHorizontal_8bpc.
 */
private class Weights(private val first: IntArray, private val coefficients: Array<IntArray>) {
    inline fun sum(
        index: Int,
        value: (Int) -> Int
    ): Byte {
        val weights = coefficients[index]
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
            val support = maxOf(scale, 1.0) // the bilinear filter extends 1 to each side
            val first = IntArray(new)
            val coefficients =
                Array(new) { index ->
                    val center = (index + 0.5) * scale
                    first[index] = maxOf(0, (center - support + 0.5).toInt())
                    val end = minOf(old, (center + support + 0.5).toInt())
                    val real = DoubleArray(end - first[index]) { maxOf(0.0, 1.0 - Math.abs((it + first[index] - center + 0.5) * (1.0 / support))) }
                    toFixedPoint(real)
                }
            return Weights(first, coefficients)
        }

        private fun toFixedPoint(real: DoubleArray): IntArray {
            val total = real.sum()
            return IntArray(real.size) { (0.5 + real[it] / total * (1 shl BITS)).toInt() }
        }
    }
}
