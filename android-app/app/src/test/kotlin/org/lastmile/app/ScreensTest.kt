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

/** Every screen, with real models and runtimes. Screenshots are saved for review. */
class ScreensTest : ScreenTestBase() {
    private fun saveScreenshot(activity: MainActivity, name: String) {
        val view = activity.window.decorView
        view.jumpDrawablesToCurrentState() // check marks are animated, and the test clock does not advance
        val image = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
        view.draw(Canvas(image))
        val folder = File(System.getProperty("lastmile.screens")!!).also { it.mkdirs() }
        File(folder, "$name.png").outputStream().use { image.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }

    private fun drawDigit(activity: MainActivity) {
        val drawing = activity.findViewById<DrawView>(R.id.drawing)
        drawing.strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f)) // a one
        drawing.performClick()
        wait { activity.text(R.id.verdict).isNotEmpty() }
    }

    @Test
    fun twoModelsClassifyADrawnDigit() {
        for ((name, qualifiers, scale) in SCREENS) {
            val activity = start(qualifiers, scale).get()
            drawDigit(activity)
            assertEquals(activity.getString(R.string.agree, "1"), activity.text(R.id.verdict))
            assertTrue(activity.findViewById<BarsView>(R.id.first_bars).contentDescription.startsWith("1: "))
            saveScreenshot(activity, "try-$name")
        }
    }

    @Test
    fun aRotationKeepsTheDrawing() {
        val controller = start()
        drawDigit(controller.get())
        controller.get().findViewById<RadioButton>(R.id.tab_accuracy).performClick()
        controller.get().findViewById<RadioButton>(R.id.tab_try).performClick()
        controller.recreate()
        wait { controller.get().text(R.id.verdict).isNotEmpty() }
        assertEquals(controller.get().getString(R.string.agree, "1"), controller.get().text(R.id.verdict))
    }

    @Test
    fun aBenchmarkShowsPercentiles() {
        val activity = start("night").get()
        activity.findViewById<RadioButton>(R.id.tab_benchmark).performClick()
        val models = activity.findViewById<LinearLayout>(R.id.models)
        wait { models.childCount > 0 }
        repeat(models.childCount) { (models.getChildAt(it) as CheckBox).isChecked = true }
        activity.findViewById<Button>(R.id.start).performClick()
        val results = activity.findViewById<LinearLayout>(R.id.results)
        wait { results.childCount == models.childCount && activity.text(R.id.start) == "Start" }
        val first = ((results.getChildAt(0) as LinearLayout).getChildAt(0) as TextView).text
        assertTrue("$first", Regex("p50 [0-9.]+ (µs|ms), p90 ").containsMatchIn(first))
        saveScreenshot(activity, "benchmark-dark")
    }

    @Test
    fun anInterruptedEvaluationResumesWhereItStopped() {
        val folder = pushedSplit()
        val activity = start().get()
        openAccuracyPage(activity)
        activity.findViewById<Button>(R.id.start).performClick()
        val results = activity.findViewById<LinearLayout>(R.id.results)
        wait { results.childCount == 1 && activity.text(R.id.start) == "Start" }
        saveScreenshot(activity, "accuracy-light")
        val outputs = folder.listFiles().orEmpty().single { it.name.endsWith(".f32") }
        val content = outputs.readBytes()
        outputs.writeBytes(content.copyOf(content.size / 2 + 3)) // as if killed while it wrote a row
        activity.findViewById<Button>(R.id.start).performClick()
        wait { outputs.length() == content.size.toLong() && activity.text(R.id.start) == "Start" }
        assertTrue(content.contentEquals(outputs.readBytes()))
        outputs.copyTo(File(System.getProperty("lastmile.folder")!!, "evaluation/outputs.f32"), overwrite = true)
    }

    @Test
    fun missingEvaluationDataIsReported() {
        val activity = start().get()
        openAccuracyPage(activity)
        val folder = File(activity.getExternalFilesDir(null), "evaluation")
        assertEquals(activity.getString(R.string.no_data, folder.path), activity.text(R.id.note))
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
