package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.LinearLayout
import android.widget.Spinner
import android.widget.TextView
import org.json.JSONArray
import org.json.JSONObject
import org.lastmile.inference.Artifact

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
        button.setOnClickListener { share() }
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
        val commands = Commands(activity.applicationContext, activity.filesDir, setOf(file)) { done, of -> onProgress(done.toDouble() / of) }
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
                formatTime(percentile(latencies, 0.5)),
                formatTime(percentile(alone, 0.9)),
                formatTime(percentile(alone, 0.99)),
                latencies.size,
                formatTime(result.getDouble("load_ns")),
                formatTime(result.getDouble("first_run_ns")),
                "%.1f MB".format(result.getLong("peak_rss_bytes") / 1e6),
                if (result.optString("throttled") in listOf("0x0", "null")) "" else activity.getString(R.string.throttled)
            )
        val histogram = HistogramView(activity)
        histogram.millis = latencies.map { it / 1e6 }
        histogram.contentDescription = activity.getString(R.string.histogram, formatTime(percentile(latencies, 0.5)), formatTime(latencies.last()))
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
        val WORK = BackgroundWork()
        val RUNS = listOf(64, 256, 1024)

        /** A percentile by linear interpolation, as in the host's statistics. */
        fun percentile(
            sorted: List<Double>,
            fraction: Double
        ): Double {
            val at = fraction * (sorted.size - 1)
            val low = at.toInt()
            return sorted[low] + (at - low) * (sorted[minOf(low + 1, sorted.size - 1)] - sorted[low])
        }
    }
}
