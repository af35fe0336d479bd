package org.lastmile.app

import android.content.Intent
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import java.io.File
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** A test of what is on the screen, with real models and runtimes. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = "w411dp-h891dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
abstract class OnScreen {
    protected fun start(
        qualifiers: String = "",
        scale: Float = 1f,
        intent: Intent = Intent()
    ): ActivityController<MainActivity> {
        RuntimeEnvironment.setQualifiers("+$qualifiers")
        RuntimeEnvironment.setFontScale(scale)
        val controller = Robolectric.buildActivity(MainActivity::class.java, intent).setup()
        said = { texts(controller.get().window.decorView) }
        return controller
    }

    /** Lets what was posted to the screen's thread happen until [done] says so. */
    private var said: () -> String = { "" }

    protected fun wait(done: () -> Boolean) {
        repeat(3000) {
            shadowOf(Looper.getMainLooper()).idle()
            if (done()) return
            Thread.sleep(10)
        }
        throw AssertionError("it did not come to that: ${said()}")
    }

    private fun texts(view: View): String =
        when (view) {
            is ViewGroup -> (0 until view.childCount).joinToString(" ") { texts(view.getChildAt(it)) }
            is TextView -> view.text.toString()
            else -> ""
        }

    protected fun MainActivity.text(id: Int) = findViewById<TextView>(id).text.toString()

    /** Puts the evaluation split where adb would. Returns the folder. */
    protected fun pushedSplit(): File {
        val home = File(RuntimeEnvironment.getApplication().getExternalFilesDir(null), "evaluation")
        val from = File(System.getProperty("lastmile.place")!!, "evaluation")
        for (name in listOf("images.npy", "labels.npy")) File(from, name).copyTo(File(home, name), overwrite = true)
        return home
    }
}
