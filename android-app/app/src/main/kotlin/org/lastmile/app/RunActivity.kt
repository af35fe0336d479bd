package org.lastmile.app

import android.app.Activity
import android.os.Build
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.os.Process
import android.view.WindowManager
import android.widget.TextView
import kotlin.concurrent.thread
import org.lastmile.inference.InferenceException

/**
 * The activity that the host starts for each run. Only the adb shell may start it, because only the shell holds the permission
 * required by the manifest. The screen stays on during the run and shows the run's ID. The result is written to a file.
 */
class RunActivity : Activity() {
    private var run: Run? = null
    private var stopWatching: () -> Unit = {}

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
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
        val who = "run ${run.id}"
        try {
            Turn.take(who)
        } catch (taken: InferenceException) {
            if (Turn.who != who) run.refuse(taken.message.orEmpty())
            finish()
            return
        }
        this.run = run
        stopWatching = Foreground.watch(this)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        Handler(Looper.getMainLooper()).postDelayed(::begin, FOCUS_MS)
    }

    override fun onWindowFocusChanged(hasFocus: Boolean) {
        super.onWindowFocusChanged(hasFocus)
        if (hasFocus) Foreground.gained(this) else Foreground.lost(this)
        if (hasFocus) begin()
    }

    override fun onPause() {
        Foreground.lost(this)
        super.onPause()
    }

    override fun onDestroy() {
        stopWatching()
        super.onDestroy()
    }

    /** Begins the run, once: when the window has the focus, and at the latest after [FOCUS_MS] without it. */
    private fun begin() {
        val run = this.run ?: return
        this.run = null
        thread(name = "run") {
            // Fixed, and above the UI's priority.
            Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY)
            try {
                run.execute()
            } finally {
                Turn.end()
                runOnUiThread {
                    window.clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
                    finish()
                }
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
        const val FOCUS_MS = 2000L
    }
}
