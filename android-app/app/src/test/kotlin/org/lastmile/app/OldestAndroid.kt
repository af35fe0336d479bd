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

/** The app on Android 8.0. It runs in a separate process, because a process can load Robolectric's native library for one Android version only. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [26])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class OldestAndroid {
    @Test
    @Suppress("DEPRECATION") // Android 8.0 has only these flags
    fun aRunTurnsTheScreenOnAndIsShownOverTheLockScreen() {
        val id = "0000fac75"
        val activity = Robolectric.buildActivity(RunActivity::class.java, Intent().putExtra("run", id)).setup().get()
        val flags = WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON
        assertEquals(flags, activity.window.attributes.flags and flags)
        val content = activity.findViewById<ViewGroup>(android.R.id.content)
        assertEquals(activity.getString(R.string.run_in_progress, id), (content.getChildAt(0) as TextView).text.toString())
    }

    @Test
    fun everyRequestIsExecuted() {
        val context = RuntimeEnvironment.getApplication()
        val folder = System.getProperty("lastmile.folder")!!
        for (request in File("$folder/runs").listFiles().orEmpty()) {
            Run.byId(context, request.name, folder)!!.execute()
            File(context.getExternalFilesDir(null), "runs/${request.name}").copyRecursively(File(request, "results"))
        }
    }

    @Test
    fun everyPageUsesTheSystemTheme() {
        for ((mode, light) in listOf("notnight" to true, "night" to false)) {
            RuntimeEnvironment.setQualifiers("+$mode")
            val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
            val array = activity.obtainStyledAttributes(intArrayOf(android.R.attr.textColorPrimary))
            assertTrue("the theme has a text color", array.hasValue(0))
            assertEquals("the text is dark in the light theme only: $mode", light, Color.luminance(array.getColor(0, Color.GRAY)) < 0.5f)
            array.recycle()
            for (tab in listOf(R.id.tab_benchmark, R.id.tab_accuracy, R.id.tab_try)) activity.findViewById<View>(tab).performClick()
        }
    }
}
