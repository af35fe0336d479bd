package org.lastmile.app

import android.content.Context
import java.io.File
import org.json.JSONArray
import org.json.JSONObject

/**
 * Samples the phone's state while a model is measured: between entries, outside the measured spans, at most every [INTERVAL_NS]. A phone
 * that is throttled between the ends of a run is seen here only.
 */
class Conditions(private val context: Context) {
    private val samples = ArrayList<JSONObject>()
    private val begin = System.nanoTime()
    private var lastNs = begin
    private var lastHeadroomNs = begin
    private var busy = cpuTime()
    private var throttled = 0

    /** Takes a sample if the last one is old enough. Returns whether it did. */
    fun between(nowNs: Long): Boolean {
        val due = nowNs - lastNs >= INTERVAL_NS
        if (due) sample(nowNs)
        return due
    }

    private fun sample(nowNs: Long) {
        lastNs = nowNs
        Foreground.check(context)
        val status = Facts.thermalStatus(context)
        throttled = throttled or (status ?: 0)
        // Android answers NaN if it is asked more than once a second.
        val headroom = if (nowNs - lastHeadroomNs >= HEADROOM_NS) Facts.thermalHeadroom(context).also { lastHeadroomNs = nowNs } else null
        val before = busy
        busy = cpuTime()
        val cpus = busy.filter { (thread, now) -> now.ticks > (before[thread]?.ticks ?: 0) }.values.map { it.cpu }
        samples +=
            JSONObject()
                .put("at_ns", nowNs - begin)
                .put("thermal_status", status ?: JSONObject.NULL)
                .put("thermal_headroom", headroom?.toDouble() ?: JSONObject.NULL)
                .put("cpus", JSONArray(cpus.distinct().sorted()))
                .put("frequency_hz", JSONArray(Facts.frequenciesHz()))
    }

    /** The samples, with a last one now: `cpus` are those on which a thread of the app ran since the sample before. */
    fun facts(): JSONObject {
        sample(System.nanoTime())
        val status = Facts.thermalStatus(context)
        return JSONObject()
            .put("throttled_during", if (status == null) JSONObject.NULL else "0x%x".format(throttled))
            .put("samples", JSONArray(samples))
    }

    /** A thread's CPU time in the kernel's ticks, and the CPU on which it ran last. */
    private class Usage(val ticks: Long, val cpu: Int)

    /** Source: proc(5), /proc/pid/stat: fields 14 and 15 are user and system time, 39 is the CPU; the command may contain spaces. */
    private fun cpuTime(): Map<String, Usage> =
        File("/proc/self/task")
            .list()
            .orEmpty()
            .mapNotNull { thread ->
                val fields = Facts.read("/proc/self/task/$thread/stat")?.substringAfterLast(')')?.trim()?.split(' ')
                if (fields == null || fields.size <= CPU) null else thread to Usage(fields[USER].toLong() + fields[SYSTEM].toLong(), fields[CPU].toInt())
            }.toMap()

    private companion object {
        const val INTERVAL_NS = 250_000_000L
        const val HEADROOM_NS = 1_100_000_000L

        // Counted from field 3, which follows the command.
        const val USER = 14 - 3
        const val SYSTEM = 15 - 3
        const val CPU = 39 - 3
    }
}
