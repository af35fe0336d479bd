package org.lastmile.app

import android.graphics.Bitmap
import android.graphics.Canvas
import android.view.View
import android.widget.Button
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.RadioButton
import android.widget.TextView
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Every screen, with real models and runtimes; pictures of them are kept for people to look at. */
class ScreensTest : OnScreen() {
    private fun keep(activity: MainActivity, name: String) {
        val view = activity.window.decorView
        view.jumpDrawablesToCurrentState() // check marks are animated, and no time passes here
        val picture = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
        view.draw(Canvas(picture))
        val folder = File(System.getProperty("lastmile.pictures")!!).also { it.mkdirs() }
        File(folder, "$name.png").outputStream().use { picture.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }

    private fun drawn(activity: MainActivity) {
        val drawing = activity.findViewById<DrawView>(R.id.drawing)
        drawing.strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f)) // a one
        drawing.performClick()
        wait { activity.text(R.id.verdict).isNotEmpty() }
    }

    @Test
    fun aDrawnDigitIsRecognisedByTwoModels() {
        for ((name, qualifiers, scale) in SCREENS) {
            val activity = start(qualifiers, scale).get()
            drawn(activity)
            assertEquals("Both say 1", activity.text(R.id.verdict))
            assertTrue(activity.findViewById<BarsView>(R.id.first_bars).contentDescription.startsWith("1: "))
            keep(activity, "try-$name")
        }
    }

    @Test
    fun aRotationLosesNothing() {
        val controller = start()
        drawn(controller.get())
        controller.get().findViewById<RadioButton>(R.id.tab_accuracy).performClick()
        controller.get().findViewById<RadioButton>(R.id.tab_try).performClick()
        controller.recreate()
        wait { controller.get().text(R.id.verdict).isNotEmpty() }
        assertEquals("Both say 1", controller.get().text(R.id.verdict))
    }

    @Test
    fun aBenchmarkShowsItsPercentiles() {
        val activity = start("night").get()
        activity.findViewById<RadioButton>(R.id.tab_benchmark).performClick()
        val models = activity.findViewById<LinearLayout>(R.id.models)
        repeat(models.childCount) { (models.getChildAt(it) as CheckBox).isChecked = true }
        activity.findViewById<Button>(R.id.start).performClick()
        val results = activity.findViewById<LinearLayout>(R.id.results)
        wait { results.childCount == models.childCount && activity.text(R.id.start) == "Start" }
        val first = ((results.getChildAt(0) as LinearLayout).getChildAt(0) as TextView).text
        assertTrue("$first", Regex("p50 [0-9.]+ (µs|ms), p90 ").containsMatchIn(first))
        keep(activity, "benchmark-dark")
    }

    @Test
    fun theAccuracyOfThePushedSplitGoesOnWhereItEnded() {
        val home = pushedSplit()
        val activity = start().get()
        activity.findViewById<RadioButton>(R.id.tab_accuracy).performClick()
        activity.findViewById<Button>(R.id.start).performClick()
        val results = activity.findViewById<LinearLayout>(R.id.results)
        wait { results.childCount == 1 && activity.text(R.id.start) == "Start" }
        keep(activity, "accuracy-light")
        val kept = home.listFiles().orEmpty().single { it.name.endsWith(".f32") }
        val whole = kept.readBytes()
        kept.writeBytes(whole.copyOf(whole.size / 2 + 3)) // killed in the middle of a row
        activity.findViewById<Button>(R.id.start).performClick()
        wait { kept.length() == whole.size.toLong() && activity.text(R.id.start) == "Start" }
        assertTrue(whole.contentEquals(kept.readBytes()))
        kept.copyTo(File(System.getProperty("lastmile.place")!!, "evaluation/outputs.f32"), overwrite = true)
    }

    @Test
    fun whatCannotBeReadSaysSo() {
        val activity = start().get()
        activity.findViewById<RadioButton>(R.id.tab_accuracy).performClick()
        assertTrue(activity.text(R.id.note).startsWith("No evaluation data"))
        assertEquals(View.GONE, activity.findViewById<View>(R.id.choices).visibility)
    }

    private companion object {
        val SCREENS =
            listOf(
                Triple("light", "port-notnight", 1f),
                Triple("dark", "port-night", 1f),
                Triple("large-font", "port-notnight", 2f),
                Triple("landscape", "land-notnight", 1f)
            )
    }
}
