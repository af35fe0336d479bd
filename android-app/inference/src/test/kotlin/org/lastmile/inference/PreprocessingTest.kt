package org.lastmile.inference

import android.graphics.Bitmap
import java.io.File
import java.lang.management.ManagementFactory
import org.json.JSONArray
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Prepares every golden picture in every way that is asked for; Python looks whether it would have done the same. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class PreprocessingTest {
    private val golden = File(System.getProperty("lastmile.place")!!, "golden")

    @Test
    fun everyPictureIsPrepared() {
        val ways = JSONArray(File(golden, "preprocessing.json").readText())
        val pictures = File(golden, "pictures").listFiles().orEmpty()
        assertTrue("no pictures", pictures.isNotEmpty() && ways.length() > 0)
        for (picture in pictures) {
            val decoded = Pictures.decode(picture.readBytes())
            for (index in 0 until ways.length()) {
                val preprocessing = Preprocessing.read(ways.getJSONObject(index))
                val fitted = decoded.fitted(preprocessing)
                assertEquals(preprocessing.crop, fitted.width)
                assertEquals(preprocessing.channels, fitted.channels)
                File(golden, "${picture.name}.$index.fitted").writeBytes(fitted.values)
            }
        }
    }

    @Test
    fun aPictureOfManyStripsIsTurnedAsExifSays() {
        val (width, height) = 300 to 199
        val bitmap = Bitmap.createBitmap(IntArray(width * height) { 0xff000000.toInt() or it * 37 }, width, height, Bitmap.Config.ARGB_8888)
        // Where (x, y) of the upright picture is in the file's.
        val sources =
            listOf<(Int, Int) -> Pair<Int, Int>>(
                { x, y -> x to y },
                { x, y -> width - 1 - x to y },
                { x, y -> width - 1 - x to height - 1 - y },
                { x, y -> x to height - 1 - y },
                { x, y -> y to x },
                { x, y -> y to height - 1 - x },
                { x, y -> width - 1 - y to height - 1 - x },
                { x, y -> width - 1 - y to x }
            )
        sources.forEachIndexed { i, source ->
            val pixels = Pictures.pixels(bitmap, i + 1)
            assertEquals("orientation ${i + 1}", if (i < 4) width to height else height to width, pixels.width to pixels.height)
            val wanted =
                ByteArray(3 * width * height) {
                    val (x, y) = source(it / 3 % pixels.width, it / 3 / pixels.width)
                    ((y * width + x) * 37 shr (16 - 8 * (it % 3))).toByte()
                }
            assertArrayEquals("orientation ${i + 1}", wanted, pixels.values)
        }
    }

    @Test
    fun aCamerasPictureTakesThreeBytesAPixel() {
        val bitmap = Bitmap.createBitmap(2000, 1500, Bitmap.Config.ARGB_8888)
        Pictures.pixels(bitmap, 6)
        val counts = ManagementFactory.getThreadMXBean() as com.sun.management.ThreadMXBean
        val before = counts.getThreadAllocatedBytes(Thread.currentThread().id)
        val pixels = Pictures.pixels(bitmap, 6)
        val bytes = counts.getThreadAllocatedBytes(Thread.currentThread().id) - before
        assertEquals(1500 to 2000, pixels.width to pixels.height)
        assertTrue("$bytes bytes", bytes < 3 * 2000 * 1500 + 200_000)
    }

    @Test
    fun aPictureMoreThanAHundredTimesAsLongAsItIsWideIsRefused() {
        val preprocessing = Preprocessing("RGB", 32, 32)
        assertEquals(32, Pixels(1, 100, 3, ByteArray(300)).fitted(preprocessing).height)
        for (pixels in listOf(Pixels(1, 101, 3, ByteArray(303)), Pixels(101, 1, 3, ByteArray(303)))) {
            val error = assertThrows(InferenceException::class.java) { pixels.fitted(preprocessing) }
            assertEquals("sides of ${pixels.width}×${pixels.height} pixels: one is more than 100 times the other", error.message)
        }
    }
}
