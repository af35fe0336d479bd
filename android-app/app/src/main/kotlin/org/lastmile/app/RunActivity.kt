package org.lastmile.app

import android.app.Activity
import android.os.Build
import android.os.Bundle
import android.os.Process
import android.view.WindowManager
import android.widget.TextView
import java.util.concurrent.atomic.AtomicReference
import kotlin.concurrent.thread

/**
 * The activity that the host starts for each run. Only the adb shell may start it, because only the shell holds the permission
 * required by the manifest. The screen stays on and shows the run's ID. The result is written to a file.
 */
class RunActivity : Activity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        showOverLockScreen()
        val text = TextView(this)
        text.setPadding(PADDING, PADDING, PADDING, PADDING)
        setContentView(text)
        val run = Run.byId(this, intent.getStringExtra("run"))
        if (run == null) {
            text.setText(R.string.invalid_run)
            return
        }
        text.text = getString(R.string.run_in_progress, run.id)
        if (!RUNNING_ID.compareAndSet(null, run.id)) {
            if (RUNNING_ID.get() != run.id) run.refuse("another run is in progress on this phone; wait until it ends")
            finish()
            return
        }
        thread(name = "run") {
            // Fixed, and above the UI's priority.
            Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY)
            try {
                run.execute()
            } finally {
                RUNNING_ID.set(null)
                runOnUiThread { finish() }
            }
        }
    }

    @Suppress("DEPRECATION") // Android 8.0 has only the flags
    private fun showOverLockScreen() {
        if (Build.VERSION.SDK_INT >= 27) {
            setShowWhenLocked(true)
            setTurnScreenOn(true)
        } else {
            window.addFlags(WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON)
        }
    }

    private companion object {
        const val PADDING = 48

        /** The ID of the current run. Two runs at once would distort each other's measurements. */
        val RUNNING_ID = AtomicReference<String?>()
    }
}
