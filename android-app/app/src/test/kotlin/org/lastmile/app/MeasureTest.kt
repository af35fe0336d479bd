package org.lastmile.app

import android.widget.Button
import android.widget.LinearLayout
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.Engines
import org.lastmile.inference.InferenceException
import org.robolectric.RuntimeEnvironment

/** Measurements started from the app's pages, and how they fail. */
class MeasureTest : ScreenTestBase() {
    private val context = RuntimeEnvironment.getApplication()

    private fun openAccuracyPage(): MainActivity {
        val activity = start().get()
        openAccuracyPage(activity)
        return activity
    }

    private fun MainActivity.evaluate() {
        findViewById<Button>(R.id.start).performClick()
        wait { text(R.id.start) == "Start" }
    }

    @Test
    fun everyFailureOfAJobIsShownInOneLine() {
        val failures =
            mapOf(
                InferenceException("no such model") to "a: no such model",
                IOException("No space left on device") to "a: No space left on device",
                IllegalStateException("Internal error:\n at a node") to "a: Internal error:",
                ArithmeticException() to "a: java.lang.ArithmeticException",
                OutOfMemoryError("Failed to allocate") to "a: the phone does not have enough memory"
            )
        for ((failure, message) in failures) {
            val work = BackgroundWork()
            work.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("a" to { throw failure }, "b" to { JSONObject() }))
            wait { !work.running }
            assertEquals(message, work.error)
            assertEquals(emptyList<JSONObject>(), work.results)
        }
    }

    @Test
    fun stoppingAMeasurementShowsNoError() {
        val activity = start().get()
        open(activity, R.id.tab_benchmark)
        val start = activity.findViewById<Button>(R.id.start)
        start.performClick()
        start.performClick()
        wait { activity.text(R.id.start) == "Start" }
        assertEquals("", activity.text(R.id.status))
        assertEquals(0, activity.findViewById<LinearLayout>(R.id.results).childCount)
    }

    @Test
    fun anOutputFileThatCannotBeWrittenIsReported() {
        val folder = pushedSplit()
        openAccuracyPage().evaluate()
        val outputs = folder.listFiles().orEmpty().single { it.name.endsWith(".f32") }
        outputs.delete()
        outputs.mkdir()
        val activity = openAccuracyPage()
        activity.evaluate()
        val status = activity.text(R.id.status)
        assertTrue(status, outputs.name in status && "directory" in status)
    }

    @Test
    fun fewerLabelsThanSamplesAreReported() {
        val folder = pushedSplit()
        File(folder, "labels.npy").writeBytes(npy("|u1", listOf(3), byteArrayOf(1, 2, 3)).let { it.header + it.open().readBytes() })
        val activity = openAccuracyPage()
        assertTrue(activity.text(R.id.note), "3 in labels.npy" in activity.text(R.id.note))
        activity.evaluate()
        assertTrue(activity.text(R.id.status), "3 in labels.npy" in activity.text(R.id.status))
    }

    @Test
    fun moreThreadsThanCoresAreRejected() {
        val model = Models.all(context).first().file.path
        val cores = Runtime.getRuntime().availableProcessors()
        val commands = Commands(context, context.filesDir, setOf(model))
        val error = assertThrows(InferenceException::class.java) { commands.execute(listOf("run", model, "--threads", "${cores + 1}")) }
        assertTrue(error.message, "--threads ${cores + 1}" in error.message!! && "$cores cores" in error.message!!)
    }

    @Test
    fun aRuntimeErrorBecomesAnInferenceExceptionWithAOneLineMessage() {
        for (engine in Engines.all) {
            val artifact = Models.all(context).first { it.file.name.endsWith(engine.suffix) }
            engine.load(artifact.file).use { session ->
                val error =
                    assertThrows(engine.name, InferenceException::class.java) {
                        session.setInputs(listOf(ByteBuffer.allocateDirect(0)))
                        session.invoke()
                    }
                assertEquals(1, error.message!!.lines().size)
            }
        }
    }
}
