package org.lastmile.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.view.WindowManager
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
    protected val artifacts = Models.all(activity)
    private val boxes: List<CheckBox>
    private val start: Button = view.findViewById(R.id.start)
    private val bar: ProgressBar = view.findViewById(R.id.progress)
    private val status: TextView = view.findViewById(R.id.status)
    private var shown: List<JSONObject> = emptyList()

    init {
        val selected = state.getStringArray("selected")
        val models = view.findViewById<LinearLayout>(R.id.models)
        boxes =
            artifacts.mapIndexed { i, artifact ->
                CheckBox(activity).apply {
                    text = artifact.title
                    minHeight = (48 * resources.displayMetrics.density).toInt()
                    isChecked = selected?.contains(artifact.title) ?: (i == 0)
                    models.addView(this)
                }
            }
        start.setOnClickListener { if (work.running) work.stop() else begin() }
    }

    /** Measures one artifact in the worker thread and reports its progress, 0 to 1. If it throws, the page shows the first line of the message. */
    abstract fun measure(
        artifact: Artifact,
        onProgress: (Double) -> Unit
    ): JSONObject

    /** Creates the view of a result. */
    abstract fun resultView(result: JSONObject): View

    override fun save(state: Bundle) = state.putStringArray("selected", boxes.filter { it.isChecked }.map { it.text.toString() }.toTypedArray())

    override fun close() {
        work.onChange = {}
    }

    /** Shows the state of the work and follows its changes. Call it once the page is initialized. */
    protected fun watch() {
        work.onChange = { activity.runOnUiThread(::refresh) }
        refresh()
    }

    private fun begin() {
        val selected = artifacts.filterIndexed { i, _ -> boxes[i].isChecked }
        work.start(selected.map { artifact -> artifact.title to { onProgress -> measure(artifact, onProgress) } })
    }

    private fun refresh() {
        val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
        if (work.running) activity.window.addFlags(flag) else activity.window.clearFlags(flag)
        start.setText(if (work.running) R.string.stop else R.string.start)
        bar.visibility = if (work.running) View.VISIBLE else View.INVISIBLE
        bar.progress = (100 * work.progress).toInt()
        status.text = if (work.running) activity.getString(R.string.measuring, work.title) else work.error
        val resultsView = view.findViewById<LinearLayout>(R.id.results)
        val results = work.results
        if (results !== shown) { // by identity: another list may have the same size
            resultsView.removeAllViews()
            results.forEach { resultsView.addView(resultView(it)) }
            shown = results
        }
    }
}
