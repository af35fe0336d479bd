package org.lastmile.app

import java.io.File
import java.nio.ByteBuffer
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith
import org.lastmile.inference.DType
import org.lastmile.inference.Session
import org.lastmile.inference.TensorInfo
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** The measuring loop on a fake clock, against the golden vectors that edge-bench reproduces too: tests/vectors/timing.json. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
class TimingTest {
    private val vectors = JSONObject(File(System.getProperty("lastmile.vectors")!!, "timing.json").readText())

    private class FakeClock(private val readingNs: Long) {
        var now = 0L

        fun read(): Long {
            now += readingNs
            return now
        }
    }

    /** A session whose runs take the vector's times. */
    private class FakeSession(
        private val clock: FakeClock,
        private val callsNs: List<Long>,
        private val keepsInput: Boolean,
        override val copiesInput: Boolean
    ) : Session {
        override val inputs = listOf(TensorInfo("input", listOf(1), DType.FLOAT32))
        override val outputs = listOf(TensorInfo("output", listOf(1), DType.FLOAT32))
        override val delegate = "cpu"
        var calls = 0
        var refilled = 0

        override fun setInputs(buffers: List<ByteBuffer>) = throw AssertionError("the inputs are set before the measurement")

        override fun refill() {
            refilled++
        }

        override fun invoke() {
            clock.now += callsNs[minOf(calls++, callsNs.size - 1)]
        }

        override fun readOutputs(): List<ByteBuffer> = listOf(outputs[0].allocate().putFloat(0, if (keepsInput) 1f else calls.toFloat()))

        override fun close() = Unit
    }

    private fun JSONArray.objects() = List(length()) { getJSONObject(it) }

    private fun JSONArray.longs() = List(length()) { getLong(it) }

    private fun toEntry(json: JSONArray) = Entry(json.getInt(0), json.getLong(1))

    /** Decodes run-length encoded values. */
    private fun <T> repeated(
        runs: JSONArray,
        value: (JSONArray) -> T
    ): List<T> = List(runs.length()) { runs.getJSONArray(it) }.flatMap { run -> List(run.getInt(0)) { value(run) } }

    @Test
    fun everyVectorGivesItsSamples() {
        val all = vectors.getJSONArray("timing").objects()
        assertEquals(12, all.size)
        for (vector in all) {
            val name = vector.getString("name")
            val effort = vector.getJSONObject("effort")
            val clock = FakeClock(vector.getLong("reading_ns"))
            val session = FakeSession(clock, vector.getJSONArray("calls_ns").longs(), vector.getBoolean("keeps_input"), copiesInput = false)
            val settings = Effort(effort.getInt("min_runs"), effort.getDouble("min_seconds"), effort.getDouble("warmup_seconds"))
            val timing = Measure(session, settings, clock = clock::read).time()
            val expected = vector.getJSONObject("expected")
            val warmup = expected.getJSONArray("warmup")
            assertEquals(name, expected.getLong("first_run_ns"), timing.firstRunNs)
            assertEquals(name, expected.getBoolean("refills_input"), timing.refillsInput)
            assertEquals(name, expected.getBoolean("refills_input"), timing.includesInputCopy)
            assertEquals(name, List(warmup.length()) { toEntry(warmup.getJSONArray(it)) }, timing.warmup)
            assertEquals(name, expected.getInt("loops"), timing.runs.first().loops)
            assertEquals(name, repeated(expected.getJSONArray("runs")) { toEntry(it.getJSONArray(1)) }, timing.runs)
            assertEquals(name, repeated(expected.getJSONArray("single_runs")) { it.getLong(1) }, timing.singleRunsNs)
            assertEquals(name, expected.getLong("clock_ns"), timing.clockNs)
            assertEquals(name, expected.getInt("calls"), session.calls)
            assertEquals(name, if (timing.refillsInput) session.calls - 2 else 0, session.refilled)
        }
    }

    @Test
    fun percentilesAreThoseOfTheVectors() {
        for (vector in vectors.getJSONArray("percentiles").objects()) {
            val values = vector.getJSONArray("values")
            val sorted = List(values.length()) { values.getDouble(it) }.sorted()
            assertEquals("$vector", vector.getDouble("expected"), Measure.percentile(sorted, vector.getDouble("percent")), 1e-12)
        }
    }

    @Test
    fun aRuntimeThatCopiesItsInputIsRecorded() {
        val clock = FakeClock(0)
        val session = FakeSession(clock, listOf(2_000_000L), keepsInput = true, copiesInput = true)
        val timing = Measure(session, Effort(1, 0.0, 0.0), clock = clock::read).time()
        assertEquals(true, timing.includesInputCopy)
        assertEquals(false, timing.refillsInput)
    }

    @Test
    fun workBetweenEntriesIsInNoMeasuredSpan() {
        val clock = FakeClock(0)
        val session = FakeSession(clock, listOf(2_000_000L), keepsInput = true, copiesInput = false)
        val seen = mutableListOf<Double>()
        val between = { _: Long, done: Double ->
            clock.now += 7_000_000
            seen += done
            false
        }
        val timing = Measure(session, Effort(4, 0.0, 0.0), between, clock::read).time()
        assertEquals(List(4) { Entry(1, 2_000_000) }, timing.runs)
        assertEquals(listOf(0.25, 0.5, 0.75, 1.0), seen)
    }

    @Test
    fun runsAfterADisturbanceAreNotRecordedIfTheyAreShort() {
        for ((callNs, unrecorded) in listOf(500_000L to 8, 2_000_000L to 0)) {
            val clock = FakeClock(0)
            val session = FakeSession(clock, listOf(callNs), keepsInput = true, copiesInput = false)
            val loops = if (callNs < 1_000_000) 2 else 1
            val timing = Measure(session, Effort(4, 0.0, 0.0), { _, _ -> true }, clock::read).time()
            assertEquals(List(4) { Entry(loops, loops * callNs) }, timing.runs)
            assertEquals(3 + 4 * loops + unrecorded + timing.singleRunsNs.size, session.calls)
        }
    }
}
