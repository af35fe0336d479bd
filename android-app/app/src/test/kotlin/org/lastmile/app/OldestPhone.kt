package org.lastmile.app

import android.content.Intent
import android.graphics.Color
import android.view.View
import android.view.ViewGroup
import android.view.WindowManager
import android.widget.TextView
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The app on Android 8.0, in a process of its own: a native library belongs to one Android only. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [26])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class OldestPhone {
    @Test
    @Suppress("DEPRECATION") // of these flags there is nothing newer on it
    fun aRunIsShownOverTheLockAndItsScreenTurnedOn() {
        val id = "0000fac75"
        val activity = Robolectric.buildActivity(RunActivity::class.java, Intent().putExtra("run", id)).setup().get()
        val wanted = WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON
        assertEquals(wanted, activity.window.attributes.flags and wanted)
        val content = activity.findViewById<ViewGroup>(android.R.id.content)
        assertEquals(activity.getString(R.string.run_of, id), (content.getChildAt(0) as TextView).text.toString())
    }

    @Test
    fun aModelAnswers() {
        val context = RuntimeEnvironment.getApplication()
        val place = System.getProperty("lastmile.place")!!
        for (request in File("$place/runs").listFiles().orEmpty()) {
            Run.named(context, request.name, place)!!.work()
            File(context.getExternalFilesDir(null), "runs/${request.name}").copyRecursively(File(request, "answer"))
        }
    }

    @Test
    fun everyPageIsShownInTheDevicesOwnTheme() {
        for ((mode, light) in listOf("notnight" to true, "night" to false)) {
            RuntimeEnvironment.setQualifiers("+$mode")
            val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
            val array = activity.obtainStyledAttributes(intArrayOf(android.R.attr.textColorPrimary))
            assertTrue("it has a colour of the device's", array.hasValue(0))
            assertEquals("dark words by day: $mode", light, Color.luminance(array.getColor(0, Color.GRAY)) < 0.5f)
            array.recycle()
            for (tab in listOf(R.id.tab_benchmark, R.id.tab_accuracy, R.id.tab_try)) activity.findViewById<View>(tab).performClick()
        }
    }
}
