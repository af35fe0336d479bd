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
        val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options) ?: throw InferenceException("the picture is broken")
        return pixels(bitmap).upright(orientation(content))
    }

    /** A bitmap's pixels in RGB, the stored values: a colour profile is not applied, as training did not (before Android 10 it is). */
    fun pixels(bitmap: Bitmap): Pixels {
        val plain = ColorSpace.get(ColorSpace.Named.SRGB)
        if (Build.VERSION.SDK_INT >= 29 && bitmap.colorSpace != plain) bitmap.setColorSpace(plain) // getPixels() would convert
        val argb = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Pixels(bitmap.width, bitmap.height, 3, ByteArray(3 * argb.size) { (argb[it / 3] shr (16 - 8 * (it % 3))).toByte() })
    }

    private fun orientation(content: ByteArray): Int =
        try {
            ExifInterface(ByteArrayInputStream(content)).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        } catch (none: IOException) { // a file without such data, by the class's own account
            ExifInterface.ORIENTATION_NORMAL
        }
}
