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
 * @property singleRunsNs runs that were timed one by one, each including [clockNs]; empty if every entry of [runs] is one run.
 */
class Timing(
    val firstRunNs: Long,
    val refillsInput: Boolean,
    val warmup: List<Entry>,
    val runs: List<Entry>,
    val singleRunsNs: List<Long>,
    val clockNs: Long
)

/** Measures a model's latency and keeps every raw sample. The method is that of edge-bench's measure.py, which gives the reasons. */
object Measure {
    /** Minimum duration of an entry, so that the cost of reading the clock is negligible. */
    private const val ENTRY_NS = 1_000_000L

    private const val SINGLE_RUNS = 200
    private const val CLOCK_READINGS = 1000

    /** Times a session whose inputs are set. Calls [onProgress] between entries with a value from 0 to 1. */
    fun time(
        session: Session,
        effort: Effort,
        onProgress: (Double) -> Unit = {}
    ): Timing {
        val first = timeEntry(session, 1)
        val refills = !keepsInput(session)
        val warmup = warmUp(session, effort.warmupSeconds)
        val loops = loopsFor(warmup)
        val runs = measure(session, loops, effort, onProgress)
        return Timing(first.ns, refills, warmup, runs, singleRuns(session, if (loops > 1) SINGLE_RUNS else 0), clockNs())
    }

    private fun singleRuns(
        session: Session,
        count: Int
    ): List<Long> =
        List(count) {
            val begin = System.nanoTime()
            session.invoke()
            System.nanoTime() - begin
        }

    /** What the clock adds to the time of a single run: the median time between two readings. */
    private fun clockNs(): Long =
        List(CLOCK_READINGS) {
            val begin = System.nanoTime()
            System.nanoTime() - begin
        }.sorted()[CLOCK_READINGS / 2]

    /** Runs the model [loops] times and reads the clock once before and once after. */
    private fun timeEntry(
        session: Session,
        loops: Int
    ): Entry {
        val begin = System.nanoTime()
        for (i in 0 until loops) session.invoke()
        return Entry(loops, System.nanoTime() - begin)
    }

    private fun warmUp(
        session: Session,
        seconds: Double
    ): List<Entry> {
        val entries = mutableListOf<Entry>()
        val end = System.nanoTime() + (seconds * 1e9).toLong()
        var loops = 1
        while (entries.isEmpty() || System.nanoTime() < end) {
            entries += timeEntry(session, loops)
            if (entries.last().ns < ENTRY_NS) loops *= 2
        }
        return entries
    }

    /** Derived from the fastest entry, because the first ones are slower than later runs. */
    private fun loopsFor(warmup: List<Entry>): Int {
        val fastest = warmup.minOf { it.ns.toDouble() / it.loops }
        return maxOf(1, Math.rint(ENTRY_NS / maxOf(fastest, 1.0)).toInt())
    }

    private fun measure(
        session: Session,
        loops: Int,
        effort: Effort,
        onProgress: (Double) -> Unit
    ): List<Entry> {
        val entries = ArrayList<Entry>(4 * effort.minRuns)
        val begin = System.nanoTime()
        val end = begin + (effort.minSeconds * 1e9).toLong()
        while (entries.size < effort.minRuns || System.nanoTime() < end) {
            entries += timeEntry(session, loops)
            val elapsedFraction = (System.nanoTime() - begin) / maxOf(effort.minSeconds * 1e9, 1.0)
            onProgress(minOf(1.0, elapsedFraction, entries.size.toDouble() / effort.minRuns))
        }
        return entries
    }

    /** Whether a second run reads the same input as the first: the outputs are equal within the error of a different summation order. */
    private fun keepsInput(session: Session): Boolean {
        val first = outputs(session)
        session.invoke()
        return first.zip(outputs(session)) { a, b -> allClose(a, b) }.all { it }
    }

    private fun outputs(session: Session): List<FloatArray> = session.outputs.zip(session.readOutputs(), TensorInfo::read)

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
}
