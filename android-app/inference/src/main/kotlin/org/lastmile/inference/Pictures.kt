package org.lastmile.inference

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.media.ExifInterface
import android.os.Build
import java.io.ByteArrayInputStream
import java.io.IOException

/** From picture files and bitmaps to [Pixels]. */
object Pictures {
    /** More pixels than any phone's camera makes: a small file may say that it is a huge picture. */
    private const val LARGEST = 128_000_000L

    /** Pixels that are read at a time. */
    private const val STRIP = 1 shl 14

    /** The decoded picture, upright, in RGB; an alpha channel is dropped, not blended. */
    fun decode(content: ByteArray): Pixels {
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(content, 0, content.size, bounds)
        if (bounds.outWidth <= 0 || bounds.outHeight <= 0) throw InferenceException("it is not a picture that Android can read")
        if (bounds.outWidth.toLong() * bounds.outHeight > LARGEST) {
            throw InferenceException("a picture of ${bounds.outWidth}×${bounds.outHeight} pixels is too large; at most $LARGEST are read")
        }
        val options =
            BitmapFactory.Options().apply {
                inPreferredConfig = Bitmap.Config.ARGB_8888
                inPremultiplied = false // colours under a transparent pixel stay what they are
                inScaled = false
            }
        try {
            val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options) ?: throw InferenceException("the picture is broken")
            return pixels(bitmap, orientation(content)).also { bitmap.recycle() }
        } catch (error: OutOfMemoryError) {
            throw InferenceException("a picture of ${bounds.outWidth}×${bounds.outHeight} pixels is too large for the memory that an app has here", error)
        }
    }

    /**
     * A bitmap's pixels in RGB, the stored values: a colour profile is not applied, as training did not (before Android 10 it is).
     *
     * They are read in strips, and put where they end: a camera's picture is in Java's memory once, as three bytes a pixel.
     *
     * @param orientation EXIF's, 1 to 8: turned and mirrored as it says. Source: Exif 2.32, tag 0x0112.
     */
    fun pixels(
        bitmap: Bitmap,
        orientation: Int = ExifInterface.ORIENTATION_NORMAL
    ): Pixels {
        val plain = ColorSpace.get(ColorSpace.Named.SRGB)
        if (Build.VERSION.SDK_INT >= 29 && bitmap.colorSpace != plain) bitmap.setColorSpace(plain) // getPixels() would convert
        val (width, height) = bitmap.width to bitmap.height
        val turned = orientation in 5..8
        val mirroredX = orientation in listOf(2, 3, 7, 8)
        val mirroredY = orientation in listOf(3, 4, 6, 7)
        val strip = IntArray(width * (STRIP / width).coerceIn(1, height))
        val made = ByteArray(Math.multiplyExact(3, width * height))
        for (top in 0 until height step strip.size / width) {
            val rows = minOf(strip.size / width, height - top)
            bitmap.getPixels(strip, 0, width, 0, top, width, rows)
            for (row in 0 until rows) {
                val y = if (mirroredY) height - 1 - top - row else top + row
                for (column in 0 until width) {
                    val x = if (mirroredX) width - 1 - column else column
                    val at = 3 * if (turned) x * height + y else y * width + x
                    val color = strip[row * width + column]
                    made[at] = (color shr 16).toByte()
                    made[at + 1] = (color shr 8).toByte()
                    made[at + 2] = color.toByte()
                }
            }
        }
        return if (turned) Pixels(height, width, 3, made) else Pixels(width, height, 3, made)
    }

    private fun orientation(content: ByteArray): Int =
        try {
            ExifInterface(ByteArrayInputStream(content)).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        } catch (none: IOException) { // a file without such data, by the class's own account
            ExifInterface.ORIENTATION_NORMAL
        }
}
