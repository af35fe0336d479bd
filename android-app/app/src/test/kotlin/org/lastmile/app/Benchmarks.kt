package org.lastmile.app

import android.os.Looper
import android.widget.TextView
import java.io.File
import java.nio.ByteBuffer
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith
import org.lastmile.inference.Engines
import org.lastmile.inference.Options
import org.lastmile.inference.Session
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.tensorflow.lite.Interpreter

/** These classes are benchmarks, not tests: benchmarks/phone.py runs them and reads the file named by `lastmile.output`. */
private fun report(result: JSONObject) = File(System.getProperty("lastmile.output")!!).writeText(result.toString())

/** Time from the start of the process to the first classified digit. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class StartupBenchmark {
    @Test
    fun firstDigit() {
        val started = System.currentTimeMillis()
        val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        val shown = System.currentTimeMillis()
        val drawing = activity.findViewById<DrawView>(R.id.drawing)
        drawing.strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f)) // a one
        drawing.performClick()
        val verdict = activity.findViewById<TextView>(R.id.verdict)
        while (verdict.text.isEmpty()) {
            shadowOf(Looper.getMainLooper()).idle()
            Thread.sleep(1)
        }
        val classified = System.currentTimeMillis()
        assertEquals(activity.getString(R.string.agree, "1"), verdict.text)
        val process = System.getProperty("lastmile.started_ms")!!.toLong()
        report(JSONObject().put("system_ms", started - process).put("shown_ms", shown - started).put("answered_ms", classified - started))
    }
}

/** The harness's median and that of a bare loop around the runtime's call, alternating, on the same loaded model and input. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class OverheadBenchmark {
    @Test
    fun harnessAndBareLoop() {
        val file = File(System.getProperty("lastmile.model")!!)
        Engines.forFile(file.name).load(file, Options()).use { session ->
            session.setInputs(session.inputs.map(Samples::pseudoRandom))
            Measure(session, Effort(minRuns = 64, minSeconds = 2.0)).time()
            val call = runtimeCall(session)
            val pairs = List(ROUNDS) { if (it % 2 == 0) listOf(harness(session), bareLoop(call)) else listOf(bareLoop(call), harness(session)).reversed() }
            report(JSONObject().put("pairs_ns", JSONArray(pairs.map(::JSONArray))))
        }
    }

    private fun harness(session: Session): Double =
        median(Measure(session, Effort(minRuns = 64, minSeconds = 0.5, warmupSeconds = 0.1)).time().runs.map { it.ns.toDouble() / it.loops })

    private fun bareLoop(call: () -> Unit): Double {
        val times = ArrayList<Double>()
        val end = System.nanoTime() + 500_000_000
        while (System.nanoTime() < end) {
            val before = System.nanoTime()
            call()
            times += (System.nanoTime() - before).toDouble()
        }
        return median(times)
    }

    /** The call that a user of the runtime would write, on the session's own objects. */
    private fun runtimeCall(session: Session): () -> Unit =
        when (val runtime = field(session, "interpreter") ?: field(session, "module")) {
            is Interpreter -> {
                val input = (field(session, "inputBuffers") as Array<*>).single() as ByteBuffer
                val output = session.outputs.single().allocate();
                { runtime.run(input.rewind(), output.rewind()) }
            }
            else -> {
                val inputBuffers = field(session, "inputBuffers") as Array<*>
                { (runtime as Module).forward(inputBuffers.single() as EValue) }
            }
        }

    private fun field(session: Session, name: String): Any? =
        session.javaClass.declaredFields.find { it.name == name }?.also { it.isAccessible = true }?.get(session)

    private fun median(values: List<Double>): Double = values.sorted().let { (it[(it.size - 1) / 2] + it[it.size / 2]) / 2 }

    private companion object {
        const val ROUNDS = 15
    }
}
