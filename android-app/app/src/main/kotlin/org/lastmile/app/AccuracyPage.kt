package org.lastmile.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.TextView
import java.io.DataInputStream
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.concurrent.thread
import org.json.JSONObject
import org.lastmile.inference.Artifact
import org.lastmile.inference.Engine
import org.lastmile.inference.Engines
import org.lastmile.inference.InferenceException
import org.lastmile.inference.sha256

/** Accuracy on the evaluation split that was pushed to the phone. Outputs are written to disk, so an app that was killed resumes where it stopped. */
class AccuracyPage(activity: Activity, parent: ViewGroup, state: Bundle) : MeasurementPage(activity, parent, state, WORK) {
    private val folder = File(activity.getExternalFilesDir(null) ?: activity.filesDir, "evaluation")

    init {
        folder.mkdirs()
        view.findViewById<View>(R.id.choices).visibility = View.GONE
        view.findViewById<Button>(R.id.share).visibility = View.GONE
        val note = view.findViewById<TextView>(R.id.note)
        note.visibility = View.VISIBLE
        thread(name = "data") {
            val text =
                when {
                    isMissing() -> activity.getString(R.string.no_data, folder.path)
                    else -> attempt { activity.getString(R.string.data, loadSplit().first.count) }.getOrElse(::oneLine)
                }
            activity.runOnUiThread { note.text = text }
        }
        watch()
    }

    override fun measure(
        artifact: Artifact,
        onProgress: (Double) -> Unit
    ): JSONObject {
        val (samples, labels) = loadSplit(artifact.layout == "NCHW")
        val engine = Engines.forFile(artifact.file.name)
        engine.unavailable()?.let { throw InferenceException(it) }
        val outputsFile = outputsFile(artifact, engine)
        engine.load(artifact.verifiedFile()).use { session ->
            val info = samples.matchInput(session.inputs)
            val output = session.outputs.first()
            val row = 4L * output.size
            val buffer = info.allocate()
            RandomAccessFile(outputsFile, "rw").use { file ->
                file.setLength(file.length() / row * row) // drops a row that was written in part
                file.seek(file.length())
                for (index in (file.length() / row).toInt() until samples.count) {
                    info.write(samples.get(index), buffer)
                    session.setInputs(listOf(buffer))
                    session.invoke()
                    file.write(littleEndian(output.read(session.readOutputs().first())))
                    onProgress((index + 1.0) / samples.count)
                }
            }
            val correct = countCorrect(outputsFile, output.size, labels)
            return JSONObject().put("title", artifact.title).put("correct", correct).put("samples", samples.count).put("outputs", outputsFile.path)
        }
    }

    /**
     * Where an artifact's outputs are kept. The name contains hashes of the model, the data and the runtime with its library: outputs of
     * another version are not continued. Those are removed.
     */
    private fun outputsFile(
        artifact: Artifact,
        engine: Engine
    ): File {
        val context = activity.applicationContext
        val runtime = "${engine.name} ${Libraries.version(context, engine)} ${Libraries.sha256(context, engine)}"
        val start = "outputs-${artifact.sha256.take(HASH_DIGITS)}-"
        val hashes = listOf(sha256(File(folder, IMAGES)), runtime.byteInputStream().sha256())
        val file = File(folder, start + hashes.joinToString("-") { it.take(HASH_DIGITS) } + ".f32")
        folder.listFiles { other -> other.name.startsWith(start) && other != file }.orEmpty().forEach { it.delete() }
        return file
    }

    override fun resultView(result: JSONObject): View {
        val accuracy = 100.0 * result.getInt("correct") / result.getInt("samples")
        return TextView(activity).also {
            it.text = activity.getString(R.string.accuracy_result, result.getString("title"), "%.2f".format(accuracy), result.getInt("samples"))
        }
    }

    private fun loadSplit(toNchw: Boolean = false): Pair<Samples, Samples> {
        if (isMissing()) throw InferenceException("there is no evaluation data in $folder")
        val (images, labels) = Samples(File(folder, IMAGES), toNchw) to Samples(File(folder, LABELS), false)
        if (images.count != labels.count || labels.get(0).size != 1) {
            throw InferenceException("$folder: ${images.count} samples in $IMAGES but ${labels.count} in $LABELS; push one label per sample")
        }
        return images to labels
    }

    private fun isMissing() = listOf(IMAGES, LABELS).any { !File(folder, it).isFile }

    private fun countCorrect(
        outputsFile: File,
        classes: Int,
        labels: Samples
    ): Int {
        val row = ByteArray(4 * classes)
        val values = ByteBuffer.wrap(row).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return DataInputStream(outputsFile.inputStream().buffered()).use { file ->
            (0 until labels.count).count { index ->
                file.readFully(row)
                (0 until classes).maxBy { values.get(it) } == labels.get(index)[0].toInt()
            }
        }
    }

    private companion object {
        val WORK = BackgroundWork()
        const val IMAGES = "images.npy"
        const val LABELS = "labels.npy"
        const val HASH_DIGITS = 16
    }
}
