package org.lastmile.app

import org.lastmile.inference.Session
import org.lastmile.inference.TensorInfo

/** How long to measure: until there are [minRuns] entries and [minSeconds] have passed. */
data class Effort(val minRuns: Int = 64, val minSeconds: Double = 1.0, val warmupSeconds: Double = 0.25)

/** So many runs one after the other took so long together. */
data class Entry(val loops: Int, val ns: Long)

/** What was measured; aggregates are computed on read. */
class Timing(val firstRunNs: Long, val refillsInput: Boolean, val warmup: List<Entry>, val runs: List<Entry>)

/** How long one run of a model takes here, with every raw sample kept: edge-bench's measure.py, which says why. */
object Measure {
    /** An entry lasts about this long at least, so that reading the clock costs nothing beside it. */
    private const val ENTRY_NS = 1_000_000L

    /** Times a session whose input is set; [each] hears how far it is, between entries, as a share of 1. */
    fun time(
        session: Session,
        effort: Effort,
        each: (Double) -> Unit = {}
    ): Timing {
        val first = entry(session, 1)
        val refills = !keepsInput(session)
        val warmup = warmUp(session, effort.warmupSeconds)
        return Timing(first.ns, refills, warmup, measure(session, loopsFor(warmup), effort, each))
    }

    /** Runs so many times and reads the clock once before and once after. */
    private fun entry(
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
            entries += entry(session, loops)
            if (entries.last().ns < ENTRY_NS) loops *= 2
        }
        return entries
    }

    /** From the fastest entry: the first ones are slower than the runs to come. */
    private fun loopsFor(warmup: List<Entry>): Int {
        val fastest = warmup.minOf { it.ns.toDouble() / it.loops }
        return maxOf(1, Math.rint(ENTRY_NS / maxOf(fastest, 1.0)).toInt())
    }

    private fun measure(
        session: Session,
        loops: Int,
        effort: Effort,
        each: (Double) -> Unit
    ): List<Entry> {
        val entries = ArrayList<Entry>(4 * effort.minRuns)
        val begin = System.nanoTime()
        val end = begin + (effort.minSeconds * 1e9).toLong()
        while (entries.size < effort.minRuns || System.nanoTime() < end) {
            entries += entry(session, loops)
            val timeShare = (System.nanoTime() - begin) / maxOf(effort.minSeconds * 1e9, 1.0)
            each(minOf(1.0, timeShare, entries.size.toDouble() / effort.minRuns))
        }
        return entries
    }

    /** Whether a second run sees the same input as the first: its outputs are alike but for the order of summation. */
    private fun keepsInput(session: Session): Boolean {
        val first = real(session)
        session.invoke()
        return first.zip(real(session)) { one, other -> alike(one, other) }.all { it }
    }

    private fun real(session: Session): List<FloatArray> = session.outputs.zip(session.get(), TensorInfo::real)

    private fun alike(
        one: FloatArray,
        other: FloatArray
    ): Boolean {
        val least = 1e-5f * (one.maxOfOrNull { Math.abs(it) } ?: 0f)
        return one.size == other.size &&
            one.indices.all {
                one[it] == other[it] ||
                    Math.abs(one[it] - other[it]) <= least + 1e-3f * Math.abs(other[it]) ||
                    one[it].isNaN() &&
                    other[it].isNaN()
            }
    }
}
