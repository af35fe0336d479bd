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
import org.lastmile.inference.Answer
import org.lastmile.inference.Artifact
import org.lastmile.inference.Classifier
import org.lastmile.inference.InferenceException
import org.lastmile.inference.Pictures
import org.lastmile.inference.Pixels

/** Draw a digit or pick a picture; two artifacts answer side by side. */
class TryPage(private val activity: Activity, parent: ViewGroup, state: Bundle) : Page {
    override val view: View = activity.layoutInflater.inflate(R.layout.try_it, parent, false)
    private val artifacts = Models.all(activity)
    private val drawing: DrawView = view.findViewById(R.id.drawing)
    private val picture: ImageView = view.findViewById(R.id.picture)
    private val sides =
        listOf(
            Side(view.findViewById(R.id.first_model), view.findViewById(R.id.first_bars), view.findViewById(R.id.first_times)),
            Side(view.findViewById(R.id.second_model), view.findViewById(R.id.second_bars), view.findViewById(R.id.second_times))
        )
    private val loaded = HashMap<Artifact, Classifier>() // of the worker's thread
    private val worker = Executors.newSingleThreadExecutor()
    private var shared: Uri? = null

    /** Which answer is wanted: what comes of an older question is late. The screen's thread alone counts. */
    @Volatile private var asked = 0

    init {
        if (activity.landscape()) {
            (view as LinearLayout).orientation = LinearLayout.HORIZONTAL
            listOf<View>(view.findViewById(R.id.left), view.findViewById(R.id.right)).forEach { it.layoutParams = LinearLayout.LayoutParams(0, WRAP, 1f) }
        }
        view.findViewById<Button>(R.id.clear).setOnClickListener { clear() }
        view.findViewById<Button>(R.id.pick).setOnClickListener { pick() }
        drawing.onDrawn = { answer() }
        val titles = artifacts.map { it.title }
        val second = artifacts.indexOfFirst { artifacts.isNotEmpty() && it.target == artifacts[0].target && it.recipe != artifacts[0].recipe }
        sides.forEachIndexed { i, side ->
            side.models.adapter = ArrayAdapter(activity, android.R.layout.simple_spinner_dropdown_item, titles)
            val before = titles.indexOf(state.getString("model_$i"))
            side.models.setSelection(
                if (before >= 0) {
                    before
                } else if (i == 0) {
                    0
                } else {
                    maxOf(0, second)
                }
            )
            side.models.onItemSelectedListener = Selected { answer() }
        }
        val strokes = state.getFloatArray("points")
        if (strokes != null) drawing.strokes = unpacked(strokes, state.getIntArray("lengths") ?: IntArray(0))
        show(state.getString("picture")?.let(Uri::parse))
    }

    override fun save(state: Bundle) {
        state.putFloatArray("points", drawing.strokes.flatten().toFloatArray())
        state.putIntArray("lengths", drawing.strokes.map { it.size }.toIntArray())
        state.putString("picture", shared?.toString())
        sides.forEachIndexed { i, side -> state.putString("model_$i", side.models.selectedItem?.toString()) }
    }

    /** Ends the worker, and the models with it. */
    override fun close() {
        asked++
        worker.execute { loaded.values.forEach { it.close() } }
        worker.shutdown()
    }

    /** Shows a picture in place of the drawing; null for the drawing. */
    fun show(uri: Uri?) {
        shared = uri
        drawing.visibility = if (uri == null) View.VISIBLE else View.GONE
        picture.visibility = if (uri == null) View.GONE else View.VISIBLE
        picture.setImageBitmap(null) // the one before is not what is answered
        answer()
    }

    private fun clear() {
        drawing.strokes = emptyList()
        show(null)
    }

    private fun pick() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
        activity.startActivityForResult(intent, MainActivity.PICK)
    }

    private fun answer() {
        val question = ++asked
        val chosen = sides.mapNotNull { artifacts.getOrNull(it.models.selectedItemPosition) }
        val uri = shared
        val drawn = if (uri == null) drawing.pixels() else null
        if (uri == null && drawn == null) {
            sides.forEach { it.show(null, null) }
            verdict("")
            return
        }
        worker.execute {
            if (question != asked) return@execute
            val pixels = attempt { drawn ?: decoded(uri!!, question) }
            val answers = chosen.map { artifact -> pixels.fold({ attempt { answered(artifact, it) } }, { Result.failure(it) }) }
            onScreen(question) { present(answers) }
        }
    }

    private fun onScreen(
        question: Int,
        body: () -> Unit
    ) = activity.runOnUiThread { if (question == asked) body() }

    private fun decoded(
        uri: Uri,
        question: Int
    ): Pixels {
        val content = activity.contentResolver.openInputStream(uri)?.use { it.readBytes() } ?: throw InferenceException("$uri cannot be opened")
        val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(content, 0, content.size, options)
        options.inJustDecodeBounds = false
        options.inSampleSize = maxOf(options.outWidth, options.outHeight) / SHOWN // Android draws no bitmap of 100 MB
        val small: Bitmap? = BitmapFactory.decodeByteArray(content, 0, content.size, options)
        onScreen(question) { picture.setImageBitmap(small) }
        return Pictures.decode(content)
    }

    private fun answered(
        artifact: Artifact,
        pixels: Pixels
    ): Answer = loaded.getOrPut(artifact) { Classifier(artifact) }.classify(pixels)

    private fun present(answers: List<Result<Answer>>) {
        sides.zip(answers) { side, answer -> side.show(answer.getOrNull(), answer.exceptionOrNull()) }
        val best = answers.mapNotNull { it.getOrNull()?.scores?.first()?.label }
        verdict(
            when {
                best.size < 2 -> ""
                best[0] == best[1] -> activity.getString(R.string.agree, best[0])
                else -> activity.getString(R.string.disagree, best[0], best[1])
            }
        )
    }

    private fun verdict(text: String) {
        view.findViewById<TextView>(R.id.verdict).text = text
    }

    private fun unpacked(
        points: FloatArray,
        lengths: IntArray
    ): List<List<Float>> {
        var at = 0
        return lengths.map { length -> points.slice(at until at + length).also { at += length } }
    }

    /** One artifact's part of the screen. */
    private class Side(val models: Spinner, val bars: BarsView, val times: TextView) {
        fun show(
            answer: Answer?,
            error: Throwable?
        ) {
            bars.scores = answer?.scores.orEmpty()
            times.text =
                when {
                    error != null -> times.context.getString(R.string.cannot, line(error))
                    answer == null -> ""
                    else -> times.context.getString(R.string.times, time(answer.preparingNs.toDouble()), time(answer.runningNs.toDouble()))
                }
        }
    }

    private companion object {
        const val WRAP = LinearLayout.LayoutParams.WRAP_CONTENT
        const val SHOWN = 1024 // pixels
    }
}

/** A listener for whom only the choice counts. */
class Selected(private val chosen: () -> Unit) : AdapterView.OnItemSelectedListener {
    override fun onItemSelected(
        parent: AdapterView<*>?,
        view: View?,
        position: Int,
        id: Long
    ) = chosen()

    override fun onNothingSelected(parent: AdapterView<*>?) = chosen()
}
