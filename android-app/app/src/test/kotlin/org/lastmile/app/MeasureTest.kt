package org.lastmile.app

import android.widget.Button
import android.widget.LinearLayout
import android.widget.RadioButton
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

/** What a measurement on the screen can fail by. */
class MeasureTest : OnScreen() {
    private val context = RuntimeEnvironment.getApplication()

    private fun accuracy(): MainActivity {
        val activity = start().get()
        activity.findViewById<RadioButton>(R.id.tab_accuracy).performClick()
        return activity
    }

    private fun MainActivity.evaluate() {
        findViewById<Button>(R.id.start).performClick()
        wait { text(R.id.start) == "Start" }
    }

    @Test
    fun whatEndsAJobIsALine() {
        val failures =
            mapOf(
                InferenceException("no such model") to "a: no such model",
                IOException("No space left on device") to "a: No space left on device",
                IllegalStateException("Internal error:\n at a node") to "a: Internal error:",
                ArithmeticException() to "a: java.lang.ArithmeticException",
                OutOfMemoryError("Failed to allocate") to "a: the phone's memory is not enough for it"
            )
        for ((failure, said) in failures) {
            val work = Work()
            work.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("a" to { throw failure }, "b" to { JSONObject() }))
            wait { !work.running }
            assertEquals(said, work.problem)
            assertEquals(emptyList<JSONObject>(), work.results)
        }
    }

    @Test
    fun stoppingAMeasurementIsNoFailure() {
        val activity = start().get()
        activity.findViewById<RadioButton>(R.id.tab_benchmark).performClick()
        val start = activity.findViewById<Button>(R.id.start)
        start.performClick()
        start.performClick()
        wait { activity.text(R.id.start) == "Start" }
        assertEquals("", activity.text(R.id.status))
        assertEquals(0, activity.findViewById<LinearLayout>(R.id.results).childCount)
    }

    @Test
    fun anOutputThatCannotBeWrittenIsSaidAndEndsNothing() {
        val home = pushedSplit()
        accuracy().evaluate()
        val kept = home.listFiles().orEmpty().single { it.name.endsWith(".f32") }
        kept.delete()
        kept.mkdir()
        val activity = accuracy()
        activity.evaluate()
        val status = activity.text(R.id.status)
        assertTrue(status, "${kept.name}" in status && "directory" in status)
    }

    @Test
    fun labelsThatAreFewerThanTheSamplesAreRefused() {
        val home = pushedSplit()
        File(home, "labels.npy").writeBytes(npy("|u1", listOf(3), byteArrayOf(1, 2, 3)))
        val says = "in images.npy and 3 in labels.npy; push a label for each sample"
        val activity = accuracy()
        assertTrue(activity.text(R.id.note), activity.text(R.id.note).endsWith(says))
        activity.evaluate()
        assertTrue(activity.text(R.id.status), activity.text(R.id.status).endsWith(says))
    }

    @Test
    fun moreThreadsThanProcessorsAreRefused() {
        val model = Models.all(context).first().file.path
        val cores = Runtime.getRuntime().availableProcessors()
        val verbs = Verbs(context, context.filesDir, setOf(model)) { _, _ -> }
        val error = assertThrows(InferenceException::class.java) { verbs.answer(listOf("run", model, "--threads", "${cores + 1}")) }
        assertEquals("--threads ${cores + 1}: this phone has $cores processors", error.message)
    }

    @Test
    fun aRuntimesOwnErrorIsOneOfOurs() {
        for (engine in Engines.all) {
            val artifact = Models.all(context).first { it.file.name.endsWith(engine.suffix) }
            engine.load(artifact.file).use { session ->
                val error =
                    assertThrows(engine.name, InferenceException::class.java) {
                        session.set(listOf(ByteBuffer.allocateDirect(0)))
                        session.invoke()
                    }
                assertEquals(1, error.message!!.lines().size)
            }
        }
    }
}
