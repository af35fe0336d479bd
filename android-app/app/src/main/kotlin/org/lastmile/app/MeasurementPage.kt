package org.lastmile.app

import android.app.Activity
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import org.json.JSONObject
import org.lastmile.inference.Artifact

/** A page that measures artifacts: check boxes to choose them, a start button, a progress bar and results. The work survives a rotation. */
abstract class MeasurementPage(protected val activity: Activity, parent: ViewGroup, state: Bundle, private val work: BackgroundWork) : Page {
    final override val view: View = activity.layoutInflater.inflate(R.layout.measure, parent, false)
    private val start: Button = view.findViewById(R.id.start)
    private val bar: ProgressBar = view.findViewById(R.id.progress)
    private val status: TextView = view.findViewById(R.id.status)
    private val models = ModelList(activity)
    private val boxes = ArrayList<CheckBox>()
    private var selected = state.getStringArray("selected")
    private var shown: List<JSONObject> = emptyList()
    private val clock = Handler(Looper.getMainLooper())

    init {
        start.setOnClickListener { if (work.running) work.stop() else begin() }
    }

    /** Measures one artifact in the worker thread and reports its progress, 0 to 1. If it throws, the page shows the first line of the message. */
    abstract fun measure(
        artifact: Artifact,
        onProgress: (Double) -> Unit
    ): JSONObject

    /** Creates the view of a result. */
    abstract fun resultView(result: JSONObject): View

    override fun save(state: Bundle) = state.putStringArray("selected", selection())

    override fun close() {
        models.close()
        work.onChange = {}
        clock.removeCallbacksAndMessages(null)
    }

    /** Lists the models, and shows the state of the work and follows its changes. Call it once the page is initialized. */
    protected fun watch() {
        models.load(::show)
        work.onChange = { activity.runOnUiThread(::refresh) }
        refresh()
    }

    private fun show(artifacts: List<Artifact>) {
        val list = view.findViewById<LinearLayout>(R.id.models)
        artifacts.forEachIndexed { i, artifact ->
            boxes +=
                CheckBox(activity).apply {
                    text = artifact.title
                    minHeight = (48 * resources.displayMetrics.density).toInt()
                    isChecked = selected?.contains(artifact.title) ?: (i == 0)
                    list.addView(this)
                }
        }
    }

    private fun selection(): Array<String>? {
        if (boxes.isNotEmpty()) selected = boxes.filter { it.isChecked }.map { it.text.toString() }.toTypedArray()
        return selected
    }

    private fun begin() {
        val chosen = models.artifacts.filterIndexed { i, _ -> boxes[i].isChecked }
        work.start(chosen.map { artifact -> artifact.title to { onProgress -> measure(artifact, onProgress) } })
    }

    private fun refresh() {
        start.setText(if (work.running) R.string.stop else R.string.start)
        bar.visibility = if (work.running) View.VISIBLE else View.INVISIBLE
        status.text = if (work.running) activity.getString(R.string.measuring, work.title) else work.error
        val resultsView = view.findViewById<LinearLayout>(R.id.results)
        val results = work.results
        if (results !== shown) { // by identity: another list may have the same size
            resultsView.removeAllViews()
            results.forEach { resultsView.addView(resultView(it)) }
            shown = results
        }
        clock.removeCallbacksAndMessages(null)
        follow()
    }

    /** Shows the progress once a second: drawing more often would disturb what is measured. */
    private fun follow() {
        bar.progress = (100 * work.progress).toInt()
        if (work.running) clock.postDelayed(::follow, PROGRESS_MS)
    }

    private companion object {
        const val PROGRESS_MS = 1000L
    }
}
