package org.lastmile.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONObject

/** The phone's hardware, software and current state; null where Android does not report a value. */
object Facts {
    private const val POLICIES = "/sys/devices/system/cpu/cpufreq"

    /** Names of ARM's processors. Source: the kernel's arch/arm64/include/asm/cputype.h; edge-bench's facts.py has the same. */
    private val ARM_PARTS =
        mapOf(
            "0xd03" to "Cortex-A53",
            "0xd05" to "Cortex-A55",
            "0xd0a" to "Cortex-A75",
            "0xd0b" to "Cortex-A76",
            "0xd0d" to "Cortex-A77",
            "0xd41" to "Cortex-A78",
            "0xd44" to "Cortex-X1",
            "0xd46" to "Cortex-A510",
            "0xd47" to "Cortex-A710",
            "0xd48" to "Cortex-X2",
            "0xd4d" to "Cortex-A715",
            "0xd4e" to "Cortex-X3",
            "0xd80" to "Cortex-A520",
            "0xd81" to "Cortex-A720",
            "0xd82" to "Cortex-X4"
        )

    /** Facts that do not change while a model runs: edge-bench's keys and some that only phones have. */
    fun device(context: Context): JSONObject {
        val clusters = clusters()
        val governors = clusters.mapNotNull { it.governor }.distinct().joinToString(" / ")
        val memory = ActivityManager.MemoryInfo()
        context.getSystemService(ActivityManager::class.java).getMemoryInfo(memory)
        return JSONObject()
            .put("board", "${Build.MANUFACTURER} ${Build.MODEL}")
            .put("cpu", soc())
            .put("soc", soc())
            .put("android", Build.VERSION.RELEASE)
            .put("api", Build.VERSION.SDK_INT)
            .put("cores", Runtime.getRuntime().availableProcessors())
            .put("cpus", status("Cpus_allowed_list") ?: JSONObject.NULL)
            .put("memory_bytes", memory.totalMem)
            .put("os", "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})")
            .put("kernel", System.getProperty("os.version") ?: JSONObject.NULL)
            .put("arch", System.getProperty("os.arch") ?: JSONObject.NULL)
            .put("abi", Build.SUPPORTED_ABIS.firstOrNull() ?: JSONObject.NULL)
            .put("governor", governors.ifEmpty { JSONObject.NULL })
            .put("frequency_max_hz", clusters.mapNotNull { it.maxHz }.maxOrNull() ?: JSONObject.NULL)
            .put("clusters", JSONArray(clusters.map { it.json() }))
            .put("security_patch", Build.VERSION.SECURITY_PATCH)
            .put("emulated", property("ro.lastmile.emulated") == "1")
    }

    /** State that changes while a model runs: edge-bench's keys, and the rest under "phone". */
    fun state(context: Context): JSONObject {
        val power = context.getSystemService(PowerManager::class.java)
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val tenths = battery?.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE) ?: Int.MIN_VALUE
        val level = battery?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
        val scale = battery?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
        val charge = battery?.getIntExtra(BatteryManager.EXTRA_STATUS, -1) ?: -1
        val status = thermalStatus(context)
        val phone =
            JSONObject()
                .put("thermal_status", status ?: JSONObject.NULL)
                .put("thermal_headroom", thermalHeadroom(context)?.toDouble() ?: JSONObject.NULL)
                .put("battery_level", if (level >= 0 && scale > 0) level.toDouble() / scale else JSONObject.NULL)
                .put("charging", charge == BatteryManager.BATTERY_STATUS_CHARGING || charge == BatteryManager.BATTERY_STATUS_FULL)
                .put("plugged", (battery?.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) ?: 0) != 0)
                .put("power_save", power.isPowerSaveMode)
        return JSONObject()
            // The battery's temperature: apps cannot read other sensors.
            .put("temperature_c", if (tenths == Int.MIN_VALUE) JSONObject.NULL else tenths / 10.0)
            .put("frequency_hz", JSONArray(frequenciesHz()))
            .put("load_average", read("/proc/loadavg")?.substringBefore(' ')?.toDoubleOrNull() ?: JSONObject.NULL)
            // The host treats any bit that is set as throttling.
            .put("throttled", status?.let { "0x%x".format(it) } ?: JSONObject.NULL)
            .put("phone", phone)
    }

    /** One of PowerManager's thermal states, 0 (none) to 6; null before Android 10. */
    fun thermalStatus(context: Context): Int? =
        if (Build.VERSION.SDK_INT >= 29) context.getSystemService(PowerManager::class.java).currentThermalStatus else null

    /** How near the phone is to severe throttling, which is 1.0; null before Android 11, and if the phone does not know. */
    fun thermalHeadroom(context: Context): Float? =
        if (Build.VERSION.SDK_INT >= 30) context.getSystemService(PowerManager::class.java).getThermalHeadroom(0).takeUnless { it.isNaN() } else null

    /** The current frequency of each set of CPUs that share a clock; empty where the kernel does not let apps read it. */
    fun frequenciesHz(): List<Long> = policies().mapNotNull { hertz(it, "scaling_cur_freq") }

    /**
     * The process's proportional set size: its own memory and its share of what it has in common with others. Null where the kernel does
     * not report it. Source: proc(5), smaps_rollup.
     */
    fun pssBytes(): Long? {
        val rollup = read("/proc/self/smaps_rollup")?.lineSequence()?.find { it.startsWith("Pss:") }
        val kib = rollup?.substringAfter(':')?.trim()?.substringBefore(' ')?.toLongOrNull() ?: Debug.getPss().takeIf { it > 0 }
        return kib?.times(1024)
    }

    /** An entry of /proc/self/status, in bytes. */
    fun memoryBytes(key: String): Long = status(key)!!.substringBefore(' ').toLong() * 1024 // the kernel's kB are KiB

    private fun status(key: String): String? =
        File("/proc/self/status").readLines().firstOrNull { it.startsWith("$key:") }?.substringAfter(':')?.trim()

    /**
     * Resets the kernel's record of peak memory. Returns whether it did: the kernel refuses it to a process that may not be profiled,
     * and then the peak is that of the whole process. Source: proc(5), clear_refs.
     */
    fun resetPeak(): Boolean =
        try {
            File("/proc/self/clear_refs").writeText("5")
            true
        } catch (denied: IOException) {
            false
        }

    /** A meta-data value from the app's manifest. */
    fun metaData(
        context: Context,
        key: String
    ): String {
        val info = context.packageManager.getApplicationInfo(context.packageName, PackageManager.GET_META_DATA)
        return info.metaData?.getString(key) ?: "unknown"
    }

    /** The app's version. */
    fun appVersion(context: Context): String = context.packageManager.getPackageInfo(context.packageName, 0).versionName.orEmpty()

    private fun soc(): String = if (Build.VERSION.SDK_INT >= 31) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else Build.HARDWARE

    /** CPUs that share a clock, on a phone those of one kind. */
    private class Cluster(val cpus: List<Int>, val name: String?, val governor: String?, val maxHz: Long?) {
        fun json(): JSONObject =
            JSONObject()
                .put("cpus", cpus.joinToString(","))
                .put("cpu", name ?: JSONObject.NULL)
                .put("governor", governor ?: JSONObject.NULL)
                .put("frequency_max_hz", maxHz ?: JSONObject.NULL)
    }

    private fun clusters(): List<Cluster> {
        val names = names()
        return policies().map { policy ->
            val cpus = read("$policy/related_cpus").orEmpty().split(' ').mapNotNull { it.toIntOrNull() }
            Cluster(cpus, names[cpus.firstOrNull()], read("$policy/scaling_governor"), hertz(policy, "cpuinfo_max_freq"))
        }
    }

    /** The folders of the kernel's cpufreq, one for each set of CPUs that share a clock; empty where there are none. */
    private fun policies(): List<File> {
        val found = File(POLICIES).listFiles { file -> file.name.removePrefix("policy").toIntOrNull() != null }
        return found.orEmpty().sortedBy { it.name.removePrefix("policy").toInt() }
    }

    private fun hertz(
        policy: File,
        file: String
    ): Long? = read("$policy/$file")?.toLongOrNull()?.times(1000)

    /** The name of each CPU, where /proc/cpuinfo has one. */
    private fun names(): Map<Int, String> {
        val found = mutableMapOf<Int, String>()
        for (block in read("/proc/cpuinfo").orEmpty().split("\n\n")) {
            val fields = block.lines().associate { it.substringBefore(':').trim() to it.substringAfter(':').trim() }
            val part = fields["CPU part"]
            val name = fields["model name"] ?: part?.let { ARM_PARTS[it] ?: "ARM part $it" }
            val number = fields["processor"]?.toIntOrNull()
            if (number != null && name != null) found[number] = name
        }
        return found
    }

    /** A system property; "" if it is not set. Read by reflection because android.os.SystemProperties is not a public class. */
    private fun property(name: String): String =
        Class.forName("android.os.SystemProperties").getMethod("get", String::class.java).invoke(null, name) as String

    /** The content of a small /proc or /sys file; null if it is missing, empty or not readable. */
    fun read(path: String): String? =
        try {
            File(path).readText().trim().ifEmpty { null }
        } catch (unreadable: IOException) {
            null
        }
}
