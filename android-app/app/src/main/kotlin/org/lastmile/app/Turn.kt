package org.lastmile.app

import org.lastmile.inference.InferenceException

/** Gives the phone to one measurement at a time: two at once would distort each other's figures. */
object Turn {
    private var holder: String? = null

    /** Called after every change, in the thread that made it. */
    @Volatile var onChange: () -> Unit = {}

    /** Whether something is being measured. */
    val taken: Boolean @Synchronized get() = holder != null

    /** Who measures; null if nobody does. */
    val who: String? @Synchronized get() = holder

    /** Takes the turn for [who]. Throws an [InferenceException] that names the holder if it is taken. */
    fun take(who: String) {
        synchronized(this) {
            val other = holder
            if (other != null) throw InferenceException("$other is in progress on this phone; wait until it ends: two at once would distort each other")
            holder = who
        }
        onChange()
    }

    /** Gives the turn back. */
    fun end() {
        synchronized(this) { holder = null }
        onChange()
    }
}
