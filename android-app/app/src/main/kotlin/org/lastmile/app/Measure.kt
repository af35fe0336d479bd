package org.lastmile.app

import org.lastmile.inference.Session
import org.lastmile.inference.TensorInfo

/** How long to measure: until there are [minRuns] entries and [minSeconds] have passed. */
data class Effort(val minRuns: Int = 64, val minSeconds: Double = 1.0, val warmupSeconds: Double = 0.25)

/** The total time of [loops] consecutive runs. */
data class Entry(val loops: Int, val ns: Long)

/**
 * Raw timings; statistics are computed when they are read.
 *
 * @property refillsInput whether the input was set again before every run, because a run overwrites it.
 * @property includesInputCopy whether every recorded time includes a copy of the input to the runtime's memory.
 * @property singleRunsNs runs that were timed one by one, each including [clockNs]; empty if every entry of [runs] is one run.
 */
class Timing(
    val firstRunNs: Long,
    val refillsInput: Boolean,
    val includesInputCopy: Boolean,
    val warmup: List<Entry>,
    val runs: List<Entry>,
    val singleRunsNs: List<Long>,
    val clockNs: Long
)

/**
 * Measures a model's latency and keeps every raw sample. The method is that of edge-bench's measure.py, which gives the reasons;
 * tests/vectors/timing.json holds both to the same samples.
 *
 * @param between called between entries, outside the measured spans, with the clock and the progress from 0 to 1. It returns whether it did
 *     something that disturbs the caches. Then runs of less than 1 ms are looped once without being recorded.
 * @param clock nanoseconds.
 */
class Measure(
    private val session: Session,
    private val effort: Effort,
    private val between: (Long, Double) -> Boolean = { _, _ -> false },
    private val clock: () -> Long = System::nanoTime
) {
    private var refills = false
    private var lastReading = 0L

    /** Times the session, whose inputs are set. */
    fun time(): Timing {
        val first = timeEntry(1)
        refills = !keepsInput()
        val warmup = warmUp()
        val loops = loopsFor(warmup)
        val runs = measure(loops)
        val single = singleRuns(if (loops > 1) SINGLE_RUNS else 0)
        return Timing(first.ns, refills, refills || session.copiesInput, warmup, runs, single, clockNs())
    }

    private fun call() {
        if (refills) session.refill()
        session.invoke()
    }

    private fun singleRuns(count: Int): List<Long> =
        List(count) {
            val begin = clock()
            call()
            clock() - begin
        }

    /** What the clock adds to the time of a single run: the median time between two readings. */
    private fun clockNs(): Long =
        List(CLOCK_READINGS) {
            val begin = clock()
            clock() - begin
        }.sorted()[CLOCK_READINGS / 2]

    /** Runs the model [loops] times and reads the clock once before and once after. */
    private fun timeEntry(loops: Int): Entry {
        val begin = clock()
        for (i in 0 until loops) call()
        lastReading = clock()
        return Entry(loops, lastReading - begin)
    }

    private fun warmUp(): List<Entry> {
        val entries = mutableListOf<Entry>()
        val end = clock() + nanoseconds(effort.warmupSeconds)
        var loops = 1
        while (entries.isEmpty() || clock() < end) {
            entries += timeEntry(loops)
            if (entries.last().ns < ENTRY_NS) loops *= 2
        }
        return entries
    }

    /** Derived from the fastest entry, because the first ones are slower than later runs. */
    private fun loopsFor(warmup: List<Entry>): Int {
        val fastest = warmup.minOf { it.ns.toDouble() / it.loops }
        return maxOf(1, Math.rint(ENTRY_NS / maxOf(fastest, 1.0)).toInt())
    }

    private fun measure(loops: Int): List<Entry> {
        val entries = ArrayList<Entry>(4 * effort.minRuns)
        val begin = clock()
        val length = nanoseconds(effort.minSeconds)
        while (entries.size < effort.minRuns || clock() < begin + length) {
            entries += timeEntry(loops)
            val elapsed = (lastReading - begin).toDouble() / maxOf(length, 1)
            val disturbed = between(lastReading, minOf(1.0, elapsed, entries.size.toDouble() / effort.minRuns))
            if (disturbed && loops > 1) timeEntry(loops)
        }
        return entries
    }

    private fun nanoseconds(seconds: Double) = (seconds * 1e9).toLong()

    /** Whether a second run reads the same input as the first: the outputs are equal within the error of a different summation order. */
    private fun keepsInput(): Boolean {
        val first = outputs()
        session.invoke()
        return first.zip(outputs()) { a, b -> allClose(a, b) }.all { it }
    }

    private fun outputs(): List<FloatArray> = session.outputs.zip(session.readOutputs(), TensorInfo::read)

    private fun allClose(
        a: FloatArray,
        b: FloatArray
    ): Boolean {
        val absoluteTolerance = 1e-5f * (a.maxOfOrNull { Math.abs(it) } ?: 0f)
        return a.size == b.size &&
            a.indices.all {
                a[it] == b[it] ||
                    Math.abs(a[it] - b[it]) <= absoluteTolerance + 1e-3f * Math.abs(b[it]) ||
                    a[it].isNaN() &&
                    b[it].isNaN()
            }
    }

    companion object {
        /** Minimum duration of an entry, so that the cost of reading the clock is negligible. */
        private const val ENTRY_NS = 1_000_000L

        private const val SINGLE_RUNS = 200
        private const val CLOCK_READINGS = 1000

        /** A percentile by linear interpolation of ascending values, as in the host's statistics. */
        fun percentile(
            sorted: List<Double>,
            percent: Double
        ): Double {
            val at = (sorted.size - 1) * percent / 100
            val low = at.toInt()
            return sorted[low] + (at - low) * (sorted[minOf(low + 1, sorted.size - 1)] - sorted[low])
        }
    }
}
