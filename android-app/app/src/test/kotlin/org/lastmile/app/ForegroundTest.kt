package org.lastmile.app

import android.app.Activity
import android.content.Context
import android.content.Intent
import android.media.AudioManager
import android.os.Looper
import android.os.PowerManager
import android.view.WindowManager
import java.io.File
import java.util.concurrent.TimeUnit
import org.json.JSONObject
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController

/** Runs that the host starts: in front or not, one at a time, with the screen on. */
class ForegroundTest : ScreenTestBase() {
    private val context: Context = RuntimeEnvironment.getApplication()

    @After
    fun leaveNothing() {
        if (Turn.taken) Turn.end()
    }

    private val front = Activity()

    private fun facts() = Foreground.facts().let { Triple(it.getBoolean("foreground_lost"), it.getBoolean("screen_off"), it.getBoolean("call")) }

    @Test
    fun aRunInFrontIsNotMarked() {
        Foreground.gained(front)
        Foreground.begin(context)
        Foreground.check(context)
        assertEquals(Triple(false, false, false), facts())
    }

    @Test
    fun aRunThatLosesTheFocusIsMarkedThoughTheFocusComesBack() {
        Foreground.gained(front)
        Foreground.begin(context)
        Foreground.lost(front)
        Foreground.gained(front)
        assertEquals(Triple(true, false, false), facts())
        Foreground.begin(context)
        assertEquals("the next run begins without marks", Triple(false, false, false), facts())
    }

    @Test
    fun aLateEventOfAnotherWindowMarksNothing() {
        Foreground.gained(Activity())
        Foreground.gained(front)
        Foreground.begin(context)
        Foreground.lost(Activity())
        assertEquals(Triple(false, false, false), facts())
    }

    @Test
    fun aCallIsMarkedThoughItTakesNoFocus() {
        Foreground.gained(front)
        Foreground.begin(context)
        val audio = context.getSystemService(AudioManager::class.java)
        audio.mode = AudioManager.MODE_RINGTONE
        Foreground.check(context)
        audio.mode = AudioManager.MODE_NORMAL
        Foreground.check(context)
        assertEquals(Triple(true, false, true), facts())
    }

    @Test
    fun aScreenThatGoesOffIsMarked() {
        val activity = start().get()
        Foreground.gained(front)
        Foreground.begin(context)
        activity.sendBroadcast(Intent(Intent.ACTION_SCREEN_OFF))
        shadowOf(Looper.getMainLooper()).idle()
        assertEquals(Triple(false, true, false), facts())
        shadowOf(context.getSystemService(PowerManager::class.java)).turnScreenOn(false)
        Foreground.begin(context)
        assertEquals("a screen that was off from the start", Triple(false, true, false), facts())
    }

    private fun request(id: String): ActivityController<RunActivity> =
        Robolectric.buildActivity(RunActivity::class.java, Intent().putExtra("run", id)).setup()

    private fun result(id: String) = File(context.getExternalFilesDir(null), "runs/$id/result.json")

    private fun RunActivity.keepsScreenOn() = window.attributes.flags and WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON != 0

    @Test
    fun aRunBeginsWithTheFocusAndKeepsTheScreenOnUntilItEnds() {
        val controller = request("00f0c001")
        val activity = controller.get()
        assertTrue(activity.keepsScreenOn())
        assertTrue(Turn.taken)
        controller.windowFocusChanged(true)
        wait { result("00f0c001").isFile && activity.isFinishing }
        assertEquals(false, activity.keepsScreenOn())
        assertEquals(false, Turn.taken)
    }

    @Test
    fun aRunWithoutFocusBeginsAllTheSame() {
        request("00f0c002")
        shadowOf(Looper.getMainLooper()).idleFor(5, TimeUnit.SECONDS)
        wait { result("00f0c002").isFile && !Turn.taken }
    }

    @Test
    fun aRunDuringAnotherMeasurementIsRefused() {
        Turn.take("a measurement of a model")
        assertTrue(request("00f0c003").get().isFinishing)
        val found = JSONObject(result("00f0c003").readText())
        assertEquals(2, found.getInt("code"))
        assertTrue(found.getString("err"), "a measurement of a model is in progress" in found.getString("err"))
        assertEquals("a measurement of a model", Turn.who)
    }

    @Test
    fun thermalStatesBetweenTheEndsAreSampled() {
        val power = shadowOf(context.getSystemService(PowerManager::class.java))
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_NONE)
        val conditions = Conditions(context)
        var now = System.nanoTime()
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_SEVERE)
        conditions.between(now + 1_000_000) // too early for a sample
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_MODERATE)
        now += 1_000_000_000
        conditions.between(now)
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_NONE)
        val facts = conditions.facts()
        assertEquals("0x2", facts.getString("throttled_during"))
        val samples = facts.getJSONArray("samples")
        assertEquals(listOf(2, 0), List(samples.length()) { samples.getJSONObject(it).getInt("thermal_status") })
    }

    @Test
    fun theCpusThatRanAreSampled() {
        val conditions = Conditions(context)
        val end = System.nanoTime() + 200_000_000 // the kernel counts in ticks of 10 ms
        while (System.nanoTime() < end) Thread.yield()
        val samples = conditions.facts().getJSONArray("samples")
        val cpus = samples.getJSONObject(0).getJSONArray("cpus")
        assertTrue("$samples", cpus.length() >= 1)
        val cores = Runtime.getRuntime().availableProcessors()
        assertTrue("$cpus", List(cpus.length()) { cpus.getInt(it) }.all { it in 0 until maxOf(cores, 256) })
    }
}
