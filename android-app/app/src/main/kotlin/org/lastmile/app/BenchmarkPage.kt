package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.os.Process
import android.view.View
import android.view.ViewGroup
import android.view.WindowManager
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import kotlin.concurrent.thread
import org.json.JSONArray
import org.json.JSONObject
import org.lastmile.inference.Artifact

/** What a page that measures shows: artifacts to choose, a button, a bar and results. Work goes on through a rotation. */
abstract class MeasuringPage(protected val activity: Activity, parent: ViewGroup, state: Bundle, private val work: Work) : Page {
    final override val view: View = activity.layoutInflater.inflate(R.layout.measure, parent, false)
    protected val artifacts = Models.all(activity)
    private val boxes: List<CheckBox>
    private val start: Button = view.findViewById(R.id.start)
    private val bar: ProgressBar = view.findViewById(R.id.progress)
    private val status: TextView = view.findViewById(R.id.status)
    private var seen: List<JSONObject> = emptyList()

    init {
        val chosen = state.getStringArray("chosen")
        val home = view.findViewById<LinearLayout>(R.id.models)
        boxes =
            artifacts.mapIndexed { i, artifact ->
                CheckBox(activity).apply {
                    text = artifact.title
                    minHeight = (48 * resources.displayMetrics.density).toInt()
                    isChecked = chosen?.contains(artifact.title) ?: (i == 0)
                    home.addView(this)
                }
            }
        start.setOnClickListener { if (work.running) work.stop() else begin() }
    }

    /** Measures one artifact, in the worker's thread; [each] takes how far it is. What it throws is shown in its first line. */
    abstract fun measured(
        artifact: Artifact,
        each: (Double) -> Unit
    ): JSONObject

    /** A result as a view. */
    abstract fun shown(result: JSONObject): View

    override fun save(state: Bundle) = state.putStringArray("chosen", boxes.filter { it.isChecked }.map { it.text.toString() }.toTypedArray())

    override fun close() {
        work.watcher = {}
    }

    /** To be called when the page is whole. */
    protected fun watch() {
        work.watcher = { activity.runOnUiThread(::refresh) }
        refresh()
    }

    private fun begin() {
        val chosen = artifacts.filterIndexed { i, _ -> boxes[i].isChecked }
        work.start(chosen.map { artifact -> artifact.title to { each -> measured(artifact, each) } })
    }

    private fun refresh() {
        val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
        if (work.running) activity.window.addFlags(flag) else activity.window.clearFlags(flag)
        start.setText(if (work.running) R.string.stop else R.string.start)
        bar.visibility = if (work.running) View.VISIBLE else View.INVISIBLE
        bar.progress = (100 * work.share).toInt()
        status.text = if (work.running) activity.getString(R.string.measuring, work.title) else work.problem
        val home = view.findViewById<LinearLayout>(R.id.results)
        val results = work.results
        if (results !== seen) { // as many as before may be others
            home.removeAllViews()
            results.forEach { home.addView(shown(it)) }
            seen = results
        }
    }
}

/** Something that runs in a thread of its own and outlives the screen that started it. */
class Work {
    @Volatile var running = false
        private set

    @Volatile var share = 0.0
        private set

    @Volatile var title = ""
        private set

    @Volatile var problem = ""
        private set

    @Volatile var results: List<JSONObject> = emptyList()
        private set

    /** Hears of every change; in the worker's thread, but of the start. */
    @Volatile var watcher: () -> Unit = {}

    @Volatile private var stopped = false

    /** Does these one after the other: each has a name, and takes who is to hear how far it is. */
    fun start(jobs: List<Pair<String, ((Double) -> Unit) -> JSONObject>>) {
        if (running || jobs.isEmpty()) return
        running = true
        stopped = false
        problem = ""
        results = emptyList()
        watcher()
        thread(name = "measure") {
            Process.setThreadPriority(Process.THREAD_PRIORITY_URGENT_DISPLAY) // fixed, and above what the screen does
            val ended =
                attempt {
                    for ((name, job) in jobs) {
                        title = name
                        results = results + job(::progress)
                    }
                }.exceptionOrNull()
            problem = if (ended == null || ended is Stopped) "" else "$title: ${line(ended)}"
            running = false
            share = 0.0
            watcher()
        }
    }

    /** Ends it at the next sign of life. */
    fun stop() {
        stopped = true
    }

    private fun progress(done: Double) {
        if (stopped) throw Stopped()
        val before = (100 * share).toInt()
        share = done
        if ((100 * done).toInt() != before) watcher()
    }

    private class Stopped : RuntimeException()
}

/** Latency and memory of artifacts, by the same code that answers the host. */
class BenchmarkPage(activity: Activity, parent: ViewGroup, state: Bundle) : MeasuringPage(activity, parent, state, WORK) {
    private val threads: Spinner = view.findViewById(R.id.threads)
    private val runs: Spinner = view.findViewById(R.id.runs)

    init {
        val cores = Runtime.getRuntime().availableProcessors()
        threads.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, (1..cores).toList())
        runs.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, RUNS)
        threads.setSelection(state.getInt("threads"))
        runs.setSelection(state.getInt("runs"))
        val share = view.findViewById<Button>(R.id.share)
        share.setOnClickListener { share() }
        watch()
    }

    override fun save(state: Bundle) {
        super.save(state)
        state.putInt("threads", threads.selectedItemPosition)
        state.putInt("runs", runs.selectedItemPosition)
    }

    override fun measured(
        artifact: Artifact,
        each: (Double) -> Unit
    ): JSONObject {
        val file = artifact.checked().path
        val words = listOf("run", file, "--threads", "${threads.selectedItem}", "--min-runs", "${runs.selectedItem}")
        val verbs = Verbs(activity.applicationContext, activity.filesDir, setOf(file)) { done, of -> each(done.toDouble() / of) }
        return verbs.answer(words).put("title", artifact.title)
    }

    override fun shown(result: JSONObject): View {
        val entries = result.getJSONArray("runs")
        val each = List(entries.length()) { entries.getJSONArray(it).getLong(1).toDouble() / entries.getJSONArray(it).getInt(0) }.sorted()
        val text =
            activity.getString(
                R.string.measured,
                result.getString("title"),
                time(percentile(each, 0.5)),
                time(percentile(each, 0.9)),
                time(percentile(each, 0.99)),
                each.size,
                time(result.getDouble("load_ns")),
                time(result.getDouble("first_run_ns")),
                "%.1f MB".format(result.getLong("peak_rss_bytes") / 1e6),
                if (result.optString("throttled") in listOf("0x0", "null")) "" else activity.getString(R.string.heated)
            )
        val histogram = HistogramView(activity)
        histogram.millis = each.map { it / 1e6 }
        histogram.contentDescription = activity.getString(R.string.histogram, time(percentile(each, 0.5)), time(each.last()))
        return LinearLayout(activity).apply {
            orientation = LinearLayout.VERTICAL
            addView(TextView(activity).also { it.text = text })
            addView(histogram)
        }
    }

    private fun share() {
        if (WORK.results.isEmpty()) return
        val intent = Intent(Intent.ACTION_SEND).setType("application/json").putExtra(Intent.EXTRA_TEXT, JSONArray(WORK.results).toString(1))
        activity.startActivity(Intent.createChooser(intent, activity.getString(R.string.share)))
    }

    private companion object {
        val WORK = Work()
        val RUNS = listOf(64, 256, 1024)

        /** By interpolation between the two nearest, as the host's statistics do. */
        fun percentile(
            sorted: List<Double>,
            share: Double
        ): Double {
            val at = share * (sorted.size - 1)
            val low = at.toInt()
            return sorted[low] + (at - low) * (sorted[minOf(low + 1, sorted.size - 1)] - sorted[low])
        }
    }
}
