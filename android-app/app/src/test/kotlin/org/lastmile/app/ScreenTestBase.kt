package org.lastmile.app

import android.content.Intent
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.LinearLayout
import android.widget.RadioButton
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

/** Base class for tests of the app's screens, with real models and runtimes. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = "w411dp-h891dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
abstract class ScreenTestBase {
    protected fun start(
        qualifiers: String = "",
        scale: Float = 1f,
        intent: Intent = Intent()
    ): ActivityController<MainActivity> {
        RuntimeEnvironment.setQualifiers("+$qualifiers")
        RuntimeEnvironment.setFontScale(scale)
        val controller = Robolectric.buildActivity(MainActivity::class.java, intent).setup()
        screenText = { texts(controller.get().window.decorView) }
        return controller
    }

    private var screenText: () -> String = { "" }

    /** Runs the tasks posted to the UI thread until [done] is true. */
    protected fun wait(done: () -> Boolean) {
        repeat(3000) {
            shadowOf(Looper.getMainLooper()).idle()
            if (done()) return
            Thread.sleep(10)
        }
        throw AssertionError("timeout; the screen shows: ${screenText()}")
    }

    private fun texts(view: View): String =
        when (view) {
            is ViewGroup -> (0 until view.childCount).joinToString(" ") { texts(view.getChildAt(it)) }
            is TextView -> view.text.toString()
            else -> ""
        }

    /** Opens a page that measures, and waits until it lists its models. */
    protected fun open(
        activity: MainActivity,
        tab: Int
    ) {
        activity.findViewById<RadioButton>(tab).performClick()
        wait { activity.findViewById<LinearLayout>(R.id.models).childCount > 0 }
    }

    /** The same for the page Accuracy, which also reads its data. */
    protected fun openAccuracyPage(activity: MainActivity) {
        open(activity, R.id.tab_accuracy)
        wait { activity.text(R.id.note).isNotEmpty() }
    }

    protected fun MainActivity.text(id: Int) = findViewById<TextView>(id).text.toString()

    /** Copies the evaluation split to the folder to which adb pushes it. Returns that folder. */
    protected fun pushedSplit(): File {
        val folder = File(RuntimeEnvironment.getApplication().getExternalFilesDir(null), "evaluation")
        val source = File(System.getProperty("lastmile.folder")!!, "evaluation")
        for (name in listOf("images.npy", "labels.npy")) File(source, name).copyTo(File(folder, name), overwrite = true)
        return folder
    }
}
