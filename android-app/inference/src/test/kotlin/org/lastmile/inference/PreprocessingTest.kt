package org.lastmile.inference

import java.io.File
import org.json.JSONArray
import org.junit.Assert.assertEquals
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
}
