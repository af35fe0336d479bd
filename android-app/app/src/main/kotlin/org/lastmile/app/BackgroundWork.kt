package org.lastmile.app

import android.os.Process
import kotlin.concurrent.thread
import org.json.JSONObject
import org.lastmile.inference.InferenceException

/** Jobs that run in a background thread and outlive the screen that started them. */
class BackgroundWork {
    @Volatile var running = false
        private set

    /** Progress of the current job, 0 to 1. The page reads it from time to time, so that the measuring thread need not report it. */
    @Volatile var progress = 0.0
        private set

    @Volatile var title = ""
        private set

    @Volatile var error = ""
        private set

    @Volatile var results: List<JSONObject> = emptyList()
        private set

    /** Called when a job ends, in the worker thread; after the start, in the caller's. */
    @Volatile var onChange: () -> Unit = {}

    @Volatile private var stopped = false

    /**
     * Runs these jobs in order. Each has a name and takes a callback to which it reports its progress. Refused with an [error] while
     * anything else is being measured.
     */
    fun start(jobs: List<Pair<String, ((Double) -> Unit) -> JSONObject>>) {
        if (running || jobs.isEmpty()) return
        try {
            Turn.take("a measurement of ${jobs[0].first}")
        } catch (taken: InferenceException) {
            error = taken.message.orEmpty()
            onChange()
            return
        }
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
                        progress = 0.0
                        onChange()
                        results = results + job(::report)
                    }
                }.exceptionOrNull()
            error = if (failure == null || failure is Stopped) "" else "$title: ${oneLine(failure)}"
            running = false
            Turn.end()
            onChange()
        }
    }

    /** Stops the current job when it next reports progress. */
    fun stop() {
        stopped = true
    }

    private fun report(done: Double) {
        if (stopped) throw Stopped()
        progress = done
    }

    private class Stopped : RuntimeException()
}
