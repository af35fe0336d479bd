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
 * What the host starts: one command out of one run's folder. Only the adb shell may: it holds the permission that the
 * manifest asks for. The screen says what runs and stays on; the answer is a file.
 */
class RunActivity : Activity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        overTheLock()
        val text = TextView(this)
        text.setPadding(PADDING, PADDING, PADDING, PADDING)
        setContentView(text)
        val run = Run.named(this, intent.getStringExtra("run"))
        if (run == null) {
            text.setText(R.string.run_refused)
            return
        }
        text.text = getString(R.string.run_of, run.id)
        if (!UNDER_WAY.compareAndSet(null, run.id)) {
            if (UNDER_WAY.get() != run.id) run.refuse("another run is under way on this phone; wait for its end")
            finish()
            return
        }
        thread(name = "run") {
            // Fixed, and above what the screen does.
            Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY)
            try {
                run.work()
            } finally {
                UNDER_WAY.set(null)
                runOnUiThread { finish() }
            }
        }
    }

    @Suppress("DEPRECATION") // Android 8.0 has the flags alone
    private fun overTheLock() {
        if (Build.VERSION.SDK_INT >= 27) {
            setShowWhenLocked(true)
            setTurnScreenOn(true)
        } else {
            window.addFlags(WindowManager.LayoutParams.FLAG_SHOW_WHEN_LOCKED or WindowManager.LayoutParams.FLAG_TURN_SCREEN_ON)
        }
    }

    private companion object {
        const val PADDING = 48

        /** Two at once would measure each other. */
        val UNDER_WAY = AtomicReference<String?>()
    }
}
