package org.lastmile.app

import android.os.Process
import kotlin.concurrent.thread
import org.json.JSONObject

/** Jobs that run in a background thread and outlive the screen that started them. */
class BackgroundWork {
    @Volatile var running = false
        private set

    /** Progress of the current job, 0 to 1. */
    @Volatile var progress = 0.0
        private set

    @Volatile var title = ""
        private set

    @Volatile var error = ""
        private set

    @Volatile var results: List<JSONObject> = emptyList()
        private set

    /** Called after every change, in the worker thread; after the start, in the caller's. */
    @Volatile var onChange: () -> Unit = {}

    @Volatile private var stopped = false

    /** Runs these jobs in order. Each has a name and takes a callback to which it reports its progress. */
    fun start(jobs: List<Pair<String, ((Double) -> Unit) -> JSONObject>>) {
        if (running || jobs.isEmpty()) return
        running = true
        stopped = false
        error = ""
        results = emptyList()
        onChange()
        thread(name = "measure") {
            Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY) // fixed, and above the UI's priority
            val failure =
                attempt {
                    for ((name, job) in jobs) {
                        title = name
                        results = results + job(::report)
                    }
                }.exceptionOrNull()
            error = if (failure == null || failure is Stopped) "" else "$title: ${oneLine(failure)}"
            running = false
            progress = 0.0
            onChange()
        }
    }

    /** Stops the current job when it next reports progress. */
    fun stop() {
        stopped = true
    }

    private fun report(done: Double) {
        if (stopped) throw Stopped()
        val before = (100 * progress).toInt()
        progress = done
        if ((100 * done).toInt() != before) onChange()
    }

    private class Stopped : RuntimeException()
}
