package org.lastmile.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.TextView
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONObject
import org.lastmile.inference.Artifact
import org.lastmile.inference.Engines
import org.lastmile.inference.InferenceException
import org.lastmile.inference.sha256

/** The pushed evaluation split, in chunks: what is done is on disk, and an app that was killed goes on from there. */
class AccuracyPage(activity: Activity, parent: ViewGroup, state: Bundle) : MeasuringPage(activity, parent, state, WORK) {
    private val home = File(activity.getExternalFilesDir(null) ?: activity.filesDir, "evaluation")

    init {
        home.mkdirs()
        view.findViewById<View>(R.id.choices).visibility = View.GONE
        view.findViewById<Button>(R.id.share).visibility = View.GONE
        val note = view.findViewById<TextView>(R.id.note)
        note.visibility = View.VISIBLE
        note.text =
            when {
                missing() -> activity.getString(R.string.no_data, home.path)
                else -> attempt { activity.getString(R.string.data, split().first.count) }.getOrElse(::line)
            }
        watch()
    }

    override fun measured(
        artifact: Artifact,
        each: (Double) -> Unit
    ): JSONObject {
        val (samples, labels) = split(artifact.layout == "NCHW")
        val engine = Engines.forFile(artifact.file.name)
        engine.missing()?.let { throw InferenceException(it) }
        // The data's hash is in the name: outputs for other data are of no use.
        val kept = File(home, "outputs-${artifact.sha256.take(HASH)}-${sha256(File(home, IMAGES)).take(HASH)}.f32")
        engine.load(artifact.checked()).use { session ->
            val info = samples.check(session.inputs)
            val output = session.outputs.first()
            val row = 4 * output.size
            val buffer = info.buffer()
            RandomAccessFile(kept, "rw").use { file ->
                file.setLength(file.length() / row * row) // a row that was cut short is done again
                file.seek(file.length())
                for (index in (file.length() / row).toInt() until samples.count) {
                    info.fill(samples.get(index), buffer)
                    session.set(listOf(buffer))
                    session.invoke()
                    file.write(littleEndian(output.real(session.get().first())))
                    each((index + 1.0) / samples.count)
                }
            }
            val right = right(kept, output.size, labels)
            return JSONObject().put("title", artifact.title).put("right", right).put("samples", samples.count).put("outputs", kept.path)
        }
    }

    override fun shown(result: JSONObject): View {
        val share = 100.0 * result.getInt("right") / result.getInt("samples")
        return TextView(activity).also {
            it.text = activity.getString(R.string.evaluated, result.getString("title"), "%.2f".format(share), result.getInt("samples"))
        }
    }

    private fun split(toNchw: Boolean = false): Pair<Samples, Samples> {
        if (missing()) throw InferenceException("no evaluation data is in $home")
        val (images, labels) = Samples(File(home, IMAGES), toNchw) to Samples(File(home, LABELS), false)
        if (images.count != labels.count || labels.get(0).size != 1) {
            throw InferenceException("$home: ${images.count} samples in $IMAGES and ${labels.count} in $LABELS; push a label for each sample")
        }
        return images to labels
    }

    private fun missing() = listOf(IMAGES, LABELS).any { !File(home, it).isFile }

    private fun right(
        kept: File,
        width: Int,
        labels: Samples
    ): Int {
        val values = ByteBuffer.wrap(kept.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return (0 until labels.count).count { index ->
            (0 until width).maxBy { values.get(index * width + it) } == labels.get(index)[0].toInt()
        }
    }

    private companion object {
        val WORK = Work()
        const val IMAGES = "images.npy"
        const val LABELS = "labels.npy"
        const val HASH = 16
    }
}
