package org.lastmile.app

import android.app.Activity
import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.media.AudioManager
import android.os.PowerManager
import org.json.JSONObject

/**
 * Whether the app stayed in front while it measured. Android slows down an app that is not, so a run that was disturbed is marked; it
 * goes on, and the host repeats it. The activities report their window's focus; the rest is asked for between entries.
 */
object Foreground {
    private var front: Activity? = null
    private var lost = false
    private var screenOff = false
    private var call = false

    /** The activity's window got the focus. */
    @Synchronized
    fun gained(activity: Activity) {
        front = activity
    }

    /** The activity's window lost the focus, or the activity is paused. Another one's event may come late. */
    @Synchronized
    fun lost(activity: Activity) {
        if (front !== activity) return
        front = null
        lost = true
    }

    /** The screen went off. */
    @Synchronized
    fun screenWentOff() {
        screenOff = true
    }

    /** A run begins: forgets what happened before. */
    @Synchronized
    fun begin(context: Context) {
        lost = front == null
        screenOff = false
        call = false
        check(context)
    }

    /** Asks for what no event reports. A call need not take the focus; the audio mode shows it without a permission. */
    @Synchronized
    fun check(context: Context) {
        if (!context.getSystemService(PowerManager::class.java).isInteractive) screenOff = true
        if (context.getSystemService(AudioManager::class.java).mode in CALLS) call = true
    }

    /** What happened since [begin]. A call counts as lost foreground. */
    @Synchronized
    fun facts(): JSONObject = JSONObject().put("foreground_lost", lost || call).put("screen_off", screenOff).put("call", call)

    /** Reports the screen's state until the returned function is called. */
    fun watch(activity: Activity): () -> Unit {
        val receiver =
            object : BroadcastReceiver() {
                override fun onReceive(
                    context: Context,
                    intent: Intent
                ) = screenWentOff()
            }
        activity.registerReceiver(receiver, IntentFilter(Intent.ACTION_SCREEN_OFF))
        return { activity.unregisterReceiver(receiver) }
    }

    private val CALLS = listOf(AudioManager.MODE_RINGTONE, AudioManager.MODE_IN_CALL, AudioManager.MODE_IN_COMMUNICATION)
}
