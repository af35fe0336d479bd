package org.lastmile.inference

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.media.ExifInterface
import android.os.Build
import java.io.ByteArrayInputStream
import java.io.IOException

/** Decodes image files and bitmaps to [Pixels]. */
object Images {
    /** More pixels than any phone's camera produces. A small file may claim to be a huge image. */
    private const val MAX_PIXELS = 128_000_000L

    /** Pixels read at a time. */
    private const val STRIP_PIXELS = 1 shl 14

    /** Decodes an image file to upright RGB; an alpha channel is dropped, not blended. */
    fun decode(content: ByteArray): Pixels {
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(content, 0, content.size, bounds)
        if (bounds.outWidth <= 0 || bounds.outHeight <= 0) throw InferenceException("this is not an image that Android can decode")
        if (bounds.outWidth.toLong() * bounds.outHeight > MAX_PIXELS) {
            throw InferenceException("the image of ${bounds.outWidth}×${bounds.outHeight} pixels is too large; the limit is $MAX_PIXELS pixels")
        }
        val options =
            BitmapFactory.Options().apply {
                inPreferredConfig = Bitmap.Config.ARGB_8888
                inPremultiplied = false // keeps the colors of transparent pixels
                inScaled = false
            }
        try {
            val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options) ?: throw InferenceException("the image is corrupt")
            return toPixels(bitmap, orientation(content)).also { bitmap.recycle() }
        } catch (error: OutOfMemoryError) {
            throw InferenceException("the image of ${bounds.outWidth}×${bounds.outHeight} pixels does not fit into the app's memory", error)
        }
    }

    /**
     * A bitmap's stored RGB values. As in training, no color profile is applied (before Android 10 the system applies it).
     *
     * Each strip is written directly to its final position, so a camera image is in Java's memory only once, at three bytes
     * per pixel.
     *
     * @param orientation EXIF orientation, 1 to 8; the pixels are rotated and mirrored accordingly. Source: Exif 2.32, tag 0x0112.
     */
    fun toPixels(
        bitmap: Bitmap,
        orientation: Int = ExifInterface.ORIENTATION_NORMAL
    ): Pixels {
        val srgb = ColorSpace.get(ColorSpace.Named.SRGB)
        if (Build.VERSION.SDK_INT >= 29 && bitmap.colorSpace != srgb) bitmap.setColorSpace(srgb) // getPixels() would convert
        val (width, height) = bitmap.width to bitmap.height
        val transposed = orientation in 5..8
        val mirroredX = orientation in listOf(2, 3, 7, 8)
        val mirroredY = orientation in listOf(3, 4, 6, 7)
        val strip = IntArray(width * (STRIP_PIXELS / width).coerceIn(1, height))
        val rgb = ByteArray(Math.multiplyExact(3, width * height))
        for (top in 0 until height step strip.size / width) {
            val rows = minOf(strip.size / width, height - top)
            bitmap.getPixels(strip, 0, width, 0, top, width, rows)
            for (row in 0 until rows) {
                val y = if (mirroredY) height - 1 - top - row else top + row
                for (column in 0 until width) {
                    val x = if (mirroredX) width - 1 - column else column
                    val at = 3 * if (transposed) x * height + y else y * width + x
                    val color = strip[row * width + column]
                    rgb[at] = (color shr 16).toByte()
                    rgb[at + 1] = (color shr 8).toByte()
                    rgb[at + 2] = color.toByte()
                }
            }
        }
        return if (transposed) Pixels(height, width, 3, rgb) else Pixels(width, height, 3, rgb)
    }

    /** The EXIF orientation of an image that is upright once it is rotated clockwise by 0, 90, 180 or 270 degrees. */
    fun orientation(rotationDegrees: Int): Int =
        when (rotationDegrees) {
            0 -> ExifInterface.ORIENTATION_NORMAL
            90 -> ExifInterface.ORIENTATION_ROTATE_90
            180 -> ExifInterface.ORIENTATION_ROTATE_180
            270 -> ExifInterface.ORIENTATION_ROTATE_270
            else -> throw InferenceException("an image is rotated by 0, 90, 180 or 270 degrees, not by $rotationDegrees")
        }

    private fun orientation(content: ByteArray): Int =
        try {
            ExifInterface(ByteArrayInputStream(content)).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        } catch (noExif: IOException) { // ExifInterface throws it for a file without EXIF data
            ExifInterface.ORIENTATION_NORMAL
        }
}
