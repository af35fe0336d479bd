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

/** Preprocesses every golden image with every setting; the Python tests compare the results with their own. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class PreprocessingTest {
    private val golden = File(System.getProperty("lastmile.folder")!!, "golden")

    @Test
    fun everyGoldenImageIsPreprocessed() {
        val settings = JSONArray(File(golden, "preprocessing.json").readText())
        val images = File(golden, "images").listFiles().orEmpty()
        assertTrue("no images", images.isNotEmpty() && settings.length() > 0)
        for (image in images) {
            val decoded = Images.decode(image.readBytes())
            for (index in 0 until settings.length()) {
                val preprocessing = Preprocessing.read(settings.getJSONObject(index))
                val pixels = decoded.preprocessed(preprocessing)
                assertEquals(preprocessing.crop, pixels.width)
                assertEquals(preprocessing.channels, pixels.channels)
                File(golden, "${image.name}.$index.pixels").writeBytes(pixels.values)
            }
        }
    }

    @Test
    fun anImageOfManyStripsIsRotatedByItsExifOrientation() {
        val (width, height) = 300 to 199
        val bitmap = Bitmap.createBitmap(IntArray(width * height) { 0xff000000.toInt() or it * 37 }, width, height, Bitmap.Config.ARGB_8888)
        // For each orientation: the position in the file of pixel (x, y) of the upright image.
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
            val pixels = Images.toPixels(bitmap, i + 1)
            assertEquals("orientation ${i + 1}", if (i < 4) width to height else height to width, pixels.width to pixels.height)
            val expected =
                ByteArray(3 * width * height) {
                    val (x, y) = source(it / 3 % pixels.width, it / 3 / pixels.width)
                    ((y * width + x) * 37 shr (16 - 8 * (it % 3))).toByte()
                }
            assertArrayEquals("orientation ${i + 1}", expected, pixels.values)
        }
    }

    @Test
    fun aCameraImageTakesThreeBytesPerPixel() {
        val bitmap = Bitmap.createBitmap(2000, 1500, Bitmap.Config.ARGB_8888)
        Images.toPixels(bitmap, 6)
        val threads = ManagementFactory.getThreadMXBean() as com.sun.management.ThreadMXBean
        val before = threads.getThreadAllocatedBytes(Thread.currentThread().id)
        val pixels = Images.toPixels(bitmap, 6)
        val bytes = threads.getThreadAllocatedBytes(Thread.currentThread().id) - before
        assertEquals(1500 to 2000, pixels.width to pixels.height)
        assertTrue("$bytes bytes", bytes < 3 * 2000 * 1500 + 200_000)
    }

    @Test
    fun anImageWithAnAspectRatioAbove100IsRejected() {
        val preprocessing = Preprocessing("RGB", 32, 32)
        assertEquals(32, Pixels(1, 100, 3, ByteArray(300)).preprocessed(preprocessing).height)
        for (pixels in listOf(Pixels(1, 101, 3, ByteArray(303)), Pixels(101, 1, 3, ByteArray(303)))) {
            val error = assertThrows(InferenceException::class.java) { pixels.preprocessed(preprocessing) }
            assertTrue(error.message, "${pixels.width}×${pixels.height}" in error.message!! && "100" in error.message!!)
        }
    }
}
