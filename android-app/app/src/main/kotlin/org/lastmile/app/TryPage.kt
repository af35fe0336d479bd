package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.Spinner
import android.widget.TextView
import java.util.concurrent.Executors
import org.lastmile.inference.Artifact
import org.lastmile.inference.Classifier
import org.lastmile.inference.Images
import org.lastmile.inference.InferenceException
import org.lastmile.inference.Pixels
import org.lastmile.inference.Prediction

/** The user draws a digit or chooses an image; the page shows the predictions of two artifacts side by side. */
class TryPage(private val activity: Activity, parent: ViewGroup, state: Bundle) : Page {
    override val view: View = activity.layoutInflater.inflate(R.layout.try_it, parent, false)
    private val models = ModelList(activity)
    private val artifacts get() = models.artifacts
    private val drawing: DrawView = view.findViewById(R.id.drawing)
    private val image: ImageView = view.findViewById(R.id.image)
    private val sides =
        listOf(
            Side(view.findViewById(R.id.first_model), view.findViewById(R.id.first_bars), view.findViewById(R.id.first_times)),
            Side(view.findViewById(R.id.second_model), view.findViewById(R.id.second_bars), view.findViewById(R.id.second_times))
        )
    private val classifiers = HashMap<Artifact, Classifier>() // used in the worker thread only
    private val worker = Executors.newSingleThreadExecutor()
    private var imageUri: Uri? = null

    /** ID of the latest request; results of earlier requests are discarded. Only the UI thread changes it. */
    @Volatile private var latestRequest = 0

    init {
        if (activity.landscape()) {
            (view as LinearLayout).orientation = LinearLayout.HORIZONTAL
            listOf<View>(view.findViewById(R.id.left), view.findViewById(R.id.right)).forEach { it.layoutParams = LinearLayout.LayoutParams(0, WRAP, 1f) }
        }
        view.findViewById<Button>(R.id.clear).setOnClickListener { clear() }
        view.findViewById<Button>(R.id.pick).setOnClickListener { pick() }
        drawing.onDrawn = { classify() }
        val points = state.getFloatArray("points")
        if (points != null) drawing.strokes = toStrokes(points, state.getIntArray("lengths") ?: IntArray(0))
        show(state.getString("image")?.let(Uri::parse))
        sides.forEachIndexed { i, side -> side.saved = state.getString("model_$i") }
        models.load { showModels() }
    }

    private fun showModels() {
        val titles = artifacts.map { it.title }
        val second = artifacts.indexOfFirst { artifacts.isNotEmpty() && it.target == artifacts[0].target && it.recipe != artifacts[0].recipe }
        sides.forEachIndexed { i, side ->
            side.models.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, titles)
            val saved = titles.indexOf(side.saved)
            side.models.setSelection(if (saved >= 0) saved else listOf(0, maxOf(0, second))[i])
            side.models.onItemSelectedListener = SelectionListener { classify() }
        }
        classify()
    }

    override fun save(state: Bundle) {
        state.putFloatArray("points", drawing.strokes.flatten().toFloatArray())
        state.putIntArray("lengths", drawing.strokes.map { it.size }.toIntArray())
        state.putString("image", imageUri?.toString())
        sides.forEachIndexed { i, side -> state.putString("model_$i", side.models.selectedItem?.toString() ?: side.saved) }
    }

    /** Closes the models and stops the worker. */
    override fun close() {
        models.close()
        latestRequest++
        worker.execute { classifiers.values.forEach { it.close() } }
        worker.shutdown()
    }

    /** Shows an image instead of the drawing; null shows the drawing. */
    fun show(uri: Uri?) {
        imageUri = uri
        drawing.visibility = if (uri == null) View.VISIBLE else View.GONE
        image.visibility = if (uri == null) View.GONE else View.VISIBLE
        image.setImageBitmap(null) // removes the previous image
        classify()
    }

    private fun clear() {
        drawing.strokes = emptyList()
        show(null)
    }

    private fun pick() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
        activity.startActivityForResult(intent, MainActivity.PICK)
    }

    private fun classify() {
        val request = ++latestRequest
        val selected = sides.mapNotNull { artifacts.getOrNull(it.models.selectedItemPosition) }
        val uri = imageUri
        val drawn = if (uri == null) drawing.pixels() else null
        if (uri == null && drawn == null) {
            sides.forEach { it.show(null, null) }
            showVerdict("")
            return
        }
        worker.execute {
            if (request != latestRequest) return@execute
            val pixels = attempt { drawn ?: decode(uri!!, request) }
            val predictions = selected.map { artifact -> pixels.fold({ attempt { predict(artifact, it) } }, { Result.failure(it) }) }
            onUiThread(request) { show(predictions) }
        }
    }

    private fun onUiThread(
        request: Int,
        body: () -> Unit
    ) = activity.runOnUiThread { if (request == latestRequest) body() }

    private fun decode(
        uri: Uri,
        request: Int
    ): Pixels {
        val content = activity.contentResolver.openInputStream(uri)?.use { it.readBytes() } ?: throw InferenceException("cannot open $uri")
        val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(content, 0, content.size, options)
        options.inJustDecodeBounds = false
        options.inSampleSize = maxOf(options.outWidth, options.outHeight) / MAX_PREVIEW_PIXELS // Android does not draw bitmaps of 100 MB
        val preview: Bitmap? = BitmapFactory.decodeByteArray(content, 0, content.size, options)
        onUiThread(request) { image.setImageBitmap(preview) }
        return Images.decode(content)
    }

    private fun predict(
        artifact: Artifact,
        pixels: Pixels
    ): Prediction = classifiers.getOrPut(artifact) { Classifier(artifact) }.classify(pixels)

    private fun show(predictions: List<Result<Prediction>>) {
        sides.zip(predictions) { side, prediction -> side.show(prediction.getOrNull(), prediction.exceptionOrNull()) }
        val best = predictions.mapNotNull { it.getOrNull()?.scores?.first()?.label }
        showVerdict(
            when {
                best.size < 2 -> ""
                best[0] == best[1] -> activity.getString(R.string.agree, best[0])
                else -> activity.getString(R.string.disagree, best[0], best[1])
            }
        )
    }

    private fun showVerdict(text: String) {
        view.findViewById<TextView>(R.id.verdict).text = text
    }

    private fun toStrokes(
        points: FloatArray,
        lengths: IntArray
    ): List<List<Float>> {
        var at = 0
        return lengths.map { length -> points.slice(at until at + length).also { at += length } }
    }

    /** The part of the page that belongs to one artifact. */
    private class Side(val models: Spinner, val bars: BarsView, val times: TextView) {
        /** The title that was selected before the page was created again. */
        var saved: String? = null

        fun show(
            prediction: Prediction?,
            error: Throwable?
        ) {
            bars.scores = prediction?.scores.orEmpty()
            times.text =
                when {
                    error != null -> times.context.getString(R.string.failed, oneLine(error))
                    prediction == null -> ""
                    else ->
                        times.context.getString(
                            R.string.times,
                            formatTime(prediction.preprocessNs.toDouble()),
                            formatTime(prediction.inferenceNs.toDouble())
                        )
                }
        }
    }

    private companion object {
        const val WRAP = LinearLayout.LayoutParams.WRAP_CONTENT
        const val MAX_PREVIEW_PIXELS = 1024
    }
}

/** Calls [onChange] whenever the selection changes. */
class SelectionListener(private val onChange: () -> Unit) : AdapterView.OnItemSelectedListener {
    override fun onItemSelected(
        parent: AdapterView<*>?,
        view: View?,
        position: Int,
        id: Long
    ) = onChange()

    override fun onNothingSelected(parent: AdapterView<*>?) = onChange()
}
