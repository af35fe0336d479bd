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

/** Not tests: benchmarks/phone.py runs them and reads the file `lastmile.figures`. */
private fun tell(figures: JSONObject) = File(System.getProperty("lastmile.figures")!!).writeText(figures.toString())

/** From a process that begins to a first digit recognised. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class StartFigure {
    @Test
    fun aFirstDigit() {
        val begun = System.currentTimeMillis()
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
        val answered = System.currentTimeMillis()
        assertEquals("Both say 1", verdict.text)
        val process = System.getProperty("lastmile.begun")!!.toLong()
        tell(JSONObject().put("system_ms", begun - process).put("shown_ms", shown - begun).put("answered_ms", answered - begun))
    }
}

/** The harness's median beside a bare loop around the runtime's call, in turn, on the same loaded model and input. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class OverheadFigure {
    @Test
    fun theHarnessBesideABareLoop() {
        val file = File(System.getProperty("lastmile.model")!!)
        Engines.forFile(file.name).load(file, Options()).use { session ->
            session.set(session.inputs.map(Samples::pseudoRandom))
            Measure.time(session, Effort(minRuns = 64, minSeconds = 2.0))
            val call = runtimesOwn(session)
            val pairs = List(ROUNDS) { if (it % 2 == 0) listOf(harness(session), bare(call)) else listOf(bare(call), harness(session)).reversed() }
            tell(JSONObject().put("pairs_ns", JSONArray(pairs.map(::JSONArray))))
        }
    }

    private fun harness(session: Session): Double =
        median(Measure.time(session, Effort(minRuns = 64, minSeconds = 0.5, warmupSeconds = 0.1)).runs.map { it.ns.toDouble() / it.loops })

    private fun bare(call: () -> Unit): Double {
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
    private fun runtimesOwn(session: Session): () -> Unit =
        when (val runtime = own(session, "interpreter") ?: own(session, "module")) {
            is Interpreter -> {
                val input = (own(session, "given") as Array<*>).single() as ByteBuffer
                val output = session.outputs.single().buffer();
                { runtime.run(input.rewind(), output.rewind()) }
            }
            else -> {
                val given = own(session, "given") as Array<*>
                { (runtime as Module).forward(given.single() as EValue) }
            }
        }

    private fun own(session: Session, name: String): Any? =
        session.javaClass.declaredFields.find { it.name == name }?.also { it.isAccessible = true }?.get(session)

    private fun median(values: List<Double>): Double = values.sorted().let { (it[(it.size - 1) / 2] + it[it.size / 2]) / 2 }

    private companion object {
        const val ROUNDS = 15
    }
}
