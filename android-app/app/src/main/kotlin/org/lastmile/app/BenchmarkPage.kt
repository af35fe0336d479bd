package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.LinearLayout
import android.widget.Spinner
import android.widget.TextView
import kotlin.concurrent.thread
import org.json.JSONArray
import org.json.JSONObject
import org.lastmile.inference.Artifact
import org.lastmile.inference.InferenceException

/** Latency and memory of artifacts, measured by the same code that serves the host. */
class BenchmarkPage(activity: Activity, parent: ViewGroup, state: Bundle) : MeasurementPage(activity, parent, state, WORK) {
    private val threads: Spinner = view.findViewById(R.id.threads)
    private val runs: Spinner = view.findViewById(R.id.runs)

    init {
        val cores = Runtime.getRuntime().availableProcessors()
        threads.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, (1..cores).toList())
        runs.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, RUNS)
        threads.setSelection(state.getInt("threads"))
        runs.setSelection(state.getInt("runs"))
        val button = view.findViewById<Button>(R.id.share)
        button.setOnClickListener { chooseDocument() }
        watch()
    }

    override fun save(state: Bundle) {
        super.save(state)
        state.putInt("threads", threads.selectedItemPosition)
        state.putInt("runs", runs.selectedItemPosition)
    }

    override fun measure(
        artifact: Artifact,
        onProgress: (Double) -> Unit
    ): JSONObject {
        val file = artifact.verifiedFile().path
        val arguments = listOf("run", file, "--threads", "${threads.selectedItem}", "--min-runs", "${runs.selectedItem}")
        val commands = Commands(activity.applicationContext, activity.filesDir, setOf(file), onProgress)
        return commands.execute(arguments).put("title", artifact.title)
    }

    override fun resultView(result: JSONObject): View {
        val entries = result.getJSONArray("runs")
        val latencies = List(entries.length()) { entries.getJSONArray(it).getLong(1).toDouble() / entries.getJSONArray(it).getInt(0) }.sorted()
        val single = result.getJSONArray("single_runs")
        val clock = result.getLong("clock_ns")
        val alone = if (single.length() == 0) latencies else List(single.length()) { maxOf(0L, single.getLong(it) - clock).toDouble() }.sorted()
        val text =
            activity.getString(
                R.string.benchmark_result,
                result.getString("title"),
                formatTime(Measure.percentile(latencies, 50.0)),
                formatTime(Measure.percentile(alone, 90.0)),
                formatTime(Measure.percentile(alone, 99.0)),
                latencies.size,
                formatTime(result.getDouble("load_ns")),
                formatTime(result.getDouble("first_run_ns")),
                "%.1f MB".format(result.getLong("peak_rss_bytes") / 1e6),
                listOfNotNull(
                    R.string.throttled.takeIf { listOf("throttled", "throttled_during").any { result.optString(it) !in listOf("0x0", "null") } },
                    R.string.disturbed.takeIf { result.getBoolean("foreground_lost") || result.getBoolean("screen_off") }
                ).joinToString("") { "\n${activity.getString(it)}" }
            )
        val histogram = HistogramView(activity)
        histogram.millis = latencies.map { it / 1e6 }
        histogram.contentDescription = activity.getString(R.string.histogram, formatTime(Measure.percentile(latencies, 50.0)), formatTime(latencies.last()))
        return LinearLayout(activity).apply {
            orientation = LinearLayout.VERTICAL
            addView(TextView(activity).also { it.text = text })
            addView(histogram)
        }
    }

    /** Asks the user for a document. Results may be larger than what one app can send to another in an intent. */
    private fun chooseDocument() {
        if (WORK.results.isEmpty()) return
        val intent = Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("application/json")
        val failure = attempt { activity.startActivityForResult(intent.putExtra(Intent.EXTRA_TITLE, "lastmile.json"), MainActivity.SAVE) }.exceptionOrNull()
        if (failure != null) showSaved(activity.getString(R.string.failed, oneLine(failure)))
    }

    /** Writes the results to a document that the user chose. */
    fun saveTo(document: Uri) {
        val results = WORK.results
        thread(name = "save") {
            val failure =
                attempt {
                    val stream = activity.contentResolver.openOutputStream(document, "wt") ?: throw InferenceException("cannot open $document")
                    stream.bufferedWriter().use { it.write(JSONArray(results).toString(1)) }
                }.exceptionOrNull()
            val text = if (failure == null) activity.getString(R.string.saved) else activity.getString(R.string.failed, oneLine(failure))
            activity.runOnUiThread { showSaved(text) }
        }
    }

    private fun showSaved(text: String) {
        view.findViewById<TextView>(R.id.status).text = text
    }

    private companion object {
        val WORK = BackgroundWork()
        val RUNS = listOf(64, 256, 1024)
    }
}
