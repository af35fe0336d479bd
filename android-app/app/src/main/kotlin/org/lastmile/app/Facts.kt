package org.lastmile.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONObject

/** The phone's hardware, software and current state; null where Android does not report a value. */
object Facts {
    private const val CPUS = "/sys/devices/system/cpu"

    /** Facts that do not change while a model runs: edge-bench's keys and some that only phones have. */
    fun device(context: Context): JSONObject {
        val memory = ActivityManager.MemoryInfo()
        context.getSystemService(ActivityManager::class.java).getMemoryInfo(memory)
        return JSONObject()
            .put("board", "${Build.MANUFACTURER} ${Build.MODEL}")
            .put("cpu", soc())
            .put("soc", soc())
            .put("android", Build.VERSION.RELEASE)
            .put("api", Build.VERSION.SDK_INT)
            .put("cores", Runtime.getRuntime().availableProcessors())
            .put("memory_bytes", memory.totalMem)
            .put("os", "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})")
            .put("kernel", System.getProperty("os.version") ?: JSONObject.NULL)
            .put("arch", System.getProperty("os.arch") ?: JSONObject.NULL)
            .put("abi", Build.SUPPORTED_ABIS.firstOrNull() ?: JSONObject.NULL)
            .put("governor", read("$CPUS/cpu0/cpufreq/scaling_governor") ?: JSONObject.NULL)
            .put("frequency_max_hz", frequencies("cpuinfo_max_freq").maxOrNull() ?: JSONObject.NULL)
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
        val status = if (Build.VERSION.SDK_INT >= 29) power.currentThermalStatus else null
        val headroom = if (Build.VERSION.SDK_INT >= 30) power.getThermalHeadroom(0).takeUnless { it.isNaN() } else null
        val phone =
            JSONObject()
                .put("thermal_status", status ?: JSONObject.NULL)
                .put("thermal_headroom", headroom?.toDouble() ?: JSONObject.NULL)
                .put("battery_level", if (level >= 0 && scale > 0) level.toDouble() / scale else JSONObject.NULL)
                .put("charging", (battery?.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) ?: 0) != 0)
                .put("power_save", power.isPowerSaveMode)
                .put("frequencies_hz", JSONArray(frequencies("scaling_cur_freq")))
        return JSONObject()
            // The battery's temperature: apps cannot read other sensors.
            .put("temperature_c", if (tenths == Int.MIN_VALUE) JSONObject.NULL else tenths / 10.0)
            .put("frequency_hz", frequencies("scaling_cur_freq").maxOrNull() ?: JSONObject.NULL)
            .put("load_average", read("/proc/loadavg")?.substringBefore(' ')?.toDoubleOrNull() ?: JSONObject.NULL)
            // The host treats any bit that is set as throttling.
            .put("throttled", status?.let { "0x%x".format(it) } ?: JSONObject.NULL)
            .put("phone", phone)
    }

    /** An entry of /proc/self/status, in bytes. */
    fun memoryBytes(key: String): Long {
        val line = File("/proc/self/status").readLines().first { it.startsWith("$key:") }
        return line.split(Regex("\\s+"))[1].toLong() * 1024 // the kernel's kB are KiB
    }

    /** Resets the kernel's record of peak memory. If that is not permitted, the peak is that of the whole process. Source: proc(5), clear_refs. */
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

    private fun frequencies(file: String): List<Long> =
        (0 until Runtime.getRuntime().availableProcessors()).mapNotNull { read("$CPUS/cpu$it/cpufreq/$file")?.toLongOrNull()?.times(1000) }

    /** A system property; "" if it is not set. Read by reflection because android.os.SystemProperties is not a public class. */
    private fun property(name: String): String =
        Class.forName("android.os.SystemProperties").getMethod("get", String::class.java).invoke(null, name) as String

    /** The content of a small /proc or /sys file; null if it is missing, empty or not readable. */
    private fun read(path: String): String? =
        try {
            File(path).readText().trim().ifEmpty { null }
        } catch (unreadable: IOException) {
            null
        }
}
