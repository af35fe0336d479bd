package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Looper
import android.view.WindowManager
import android.widget.Button
import android.widget.LinearLayout
import android.widget.RadioButton
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicInteger
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.DType
import org.lastmile.inference.Engines
import org.lastmile.inference.ExecuTorchEngine
import org.lastmile.inference.InferenceException
import org.lastmile.inference.TensorInfo
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf

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

    @Test
    fun twoPagesDoNotMeasureAtOnce() {
        val first = BackgroundWork()
        val second = BackgroundWork()
        val release = CountDownLatch(1)
        first.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("a" to { JSONObject().also { release.await() } }))
        second.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("b" to { JSONObject() }))
        assertEquals(false, second.running)
        assertTrue(second.error, "a measurement of a is in progress" in second.error)
        release.countDown()
        wait { !first.running && !Turn.taken }
        second.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("b" to { JSONObject() }))
        wait { !second.running }
        assertEquals("", second.error)
        assertEquals(1, second.results.size)
    }

    @Test
    fun theMeasuringThreadOnlyNotesItsProgress() {
        val work = BackgroundWork()
        val reported = CountDownLatch(1)
        val release = CountDownLatch(1)
        val changes = AtomicInteger()
        work.onChange = { changes.incrementAndGet() }
        val job = { report: (Double) -> Unit ->
            val before = changes.get()
            repeat(100) { report(it / 100.0) }
            assertEquals("changes that were reported", before, changes.get())
            reported.countDown()
            release.await()
            JSONObject()
        }
        work.start(listOf<Pair<String, ((Double) -> Unit) -> JSONObject>>("a" to job))
        reported.await()
        assertEquals(0.99, work.progress, 0.0)
        release.countDown()
        wait { !work.running }
        assertEquals("", work.error)
    }

    @Test
    fun theScreenStaysOnWhileAnyTabMeasures() {
        val activity = start().get()

        fun keepsScreenOn() = activity.window.attributes.flags and WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON != 0
        assertEquals(false, keepsScreenOn())
        open(activity, R.id.tab_benchmark)
        activity.findViewById<Button>(R.id.start).performClick()
        shadowOf(Looper.getMainLooper()).idle()
        assertEquals(Turn.taken, keepsScreenOn())
        activity.findViewById<RadioButton>(R.id.tab_try).performClick() // the measurement goes on
        wait { !Turn.taken && !keepsScreenOn() }
    }

    @Test
    fun resultsAreSavedToADocumentOfAnySize() {
        val activity = start().get()
        open(activity, R.id.tab_benchmark)
        activity.findViewById<Button>(R.id.start).performClick()
        val results = activity.findViewById<LinearLayout>(R.id.results)
        wait { results.childCount == 1 && activity.text(R.id.start) == "Start" }
        activity.findViewById<Button>(R.id.share).performClick()
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        assertEquals(Intent.ACTION_CREATE_DOCUMENT, asked.action)
        assertEquals(null, asked.getStringExtra(Intent.EXTRA_TEXT))
        val document = Uri.parse("content://documents/1")
        val saved = ByteArrayOutputStream()
        shadowOf(context.contentResolver).registerOutputStream(document, saved)
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, Intent().setData(document))
        wait { activity.text(R.id.status) == activity.getString(R.string.saved) }
        val found = JSONArray(saved.toString(Charsets.UTF_8.name()))
        assertEquals(1, found.length())
        assertTrue(found.getJSONObject(0).getJSONArray("runs").length() >= 64)
    }

    @Test
    fun outputsOfAnotherVersionOfTheRuntimeAreStartedAgain() {
        val folder = pushedSplit()

        fun outputs() = folder.listFiles().orEmpty().filter { it.name.endsWith(".f32") }
        openAccuracyPage().evaluate()
        val file = outputs().single()
        val content = file.readBytes()
        val other = File(folder, file.name.replace(Regex("-[0-9a-f]+[.]f32$"), "-${"0".repeat(16)}.f32"))
        assertTrue(file.renameTo(other))
        other.writeBytes(ByteArray(content.size / 2)) // the first half, by a version that gives other outputs
        openAccuracyPage().evaluate()
        assertEquals(listOf(file), outputs())
        assertTrue(content.contentEquals(file.readBytes()))
    }

    @Test
    fun modelsAreReadInTheBackground() {
        val activity = start().get()
        activity.findViewById<RadioButton>(R.id.tab_benchmark).performClick()
        assertEquals("before the UI thread runs what was posted to it", 0, activity.findViewById<LinearLayout>(R.id.models).childCount)
        wait { activity.findViewById<LinearLayout>(R.id.models).childCount > 0 }
    }

    @Test
    fun aFileOfSamplesMayExceedTwoGigabytes() {
        val file = File(context.filesDir, "large.npy")
        val count = 600_000_000 // 2.4 GB, without content on the disk
        val start = npy("|u1", listOf(count, 4), ByteArray(0)).header
        RandomAccessFile(file, "rw").use {
            it.write(start)
            it.setLength(start.size + 4L * count)
            it.seek(start.size + 4L * (count - 1))
            it.write(byteArrayOf(1, 2, 3, 4))
        }
        val samples = Samples(file, false)
        assertEquals(count, samples.count)
        assertEquals(listOf(1f, 2f, 3f, 4f), samples.get(count - 1).toList())
        assertEquals(listOf(0f, 0f, 0f, 0f), samples.get(count - 2).toList())
        file.delete()
    }

    @Test
    fun aModelFileMayExceedTwoGigabytes() {
        val bundled = Models.all(context).first { it.file.name.endsWith(".pte") }
        val file = File(context.filesDir, "large.pte")
        bundled.file.copyTo(file, overwrite = true)
        RandomAccessFile(file, "rw").use { it.setLength(2_200_000_000) }
        ExecuTorchEngine.load(file).use { assertEquals(1, it.inputs.size) }
        file.delete()
    }

    @Test
    fun aTensorBeyondTwoGigabytesIsRefusedInOneLine() {
        val error = assertThrows(InferenceException::class.java) { TensorInfo("images", listOf(1, 30_000, 30_000, 3), DType.FLOAT32).allocate() }
        assertTrue(error.message, "images" in error.message!! && "2 GB" in error.message!!)
    }

    @Test
    fun aRuntimeReadsTheInputThatWasSetLast() {
        for (engine in Engines.all) {
            val artifact = Models.all(context).first { it.recipe == "fp32" && it.file.name.endsWith(engine.suffix) }
            engine.load(artifact.file).use { session ->
                val info = session.inputs.single()
                val buffer = info.allocate()

                fun outputs(value: Float): List<Float> {
                    info.write(FloatArray(info.size) { value * (it % 7) }, buffer)
                    session.setInputs(listOf(buffer))
                    session.invoke()
                    return session.outputs.single().read(session.readOutputs().single()).toList()
                }
                val first = outputs(1f)
                assertNotEquals(engine.name, first, outputs(20f))
                assertEquals(engine.name, first, outputs(1f))
                session.refill()
                session.invoke()
                assertEquals(engine.name, first, session.outputs.single().read(session.readOutputs().single()).toList())
                assertEquals(engine.name, engine.name == "executorch", session.copiesInput)
            }
        }
    }
}
