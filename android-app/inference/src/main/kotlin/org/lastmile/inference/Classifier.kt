package org.lastmile.inference

import java.io.Closeable
import java.nio.ByteBuffer

/** A class and its result: [score] is the softmax probability, [output] the model's raw output, [index] the position in the output. */
data class Score(val label: String, val score: Float, val output: Float, val index: Int)

/** The result for one image, with times in nanoseconds. [scores] is sorted from best to worst. */
data class Prediction(val scores: List<Score>, val outputs: FloatArray, val preprocessNs: Long, val inferenceNs: Long)

/** A loaded image classifier. Not thread-safe: use it from one thread at a time. */
class Classifier(val artifact: Artifact, options: Options = Options()) : Closeable {
    private val session: Session
    private val input: TensorInfo
    private val buffer: ByteBuffer

    /** Time to load the model. */
    val loadNs: Long

    init {
        val engine = Engines.forFile(artifact.file.name)
        engine.unavailable()?.let { throw InferenceException(it) }
        val file = artifact.verifiedFile()
        val begin = System.nanoTime()
        session = engine.load(file, options)
        loadNs = System.nanoTime() - begin
        input =
            session.closeOnFailure {
                it.inputs.singleOrNull() ?: throw InferenceException("$file has ${it.inputs.size} inputs; a classifier takes one image")
            }
        buffer = session.closeOnFailure { input.allocate() }
        session.setInputs(listOf(buffer))
    }

    /** Preprocesses the pixels as the artifact specifies, runs the model and labels its outputs. */
    fun classify(pixels: Pixels): Prediction {
        val begin = System.nanoTime()
        input.write(pixels.preprocessed(artifact.preprocessing).toFloats(artifact.layout), buffer)
        session.setInputs(listOf(buffer))
        val ready = System.nanoTime()
        session.invoke()
        val end = System.nanoTime()
        val outputs = session.outputs.first().read(session.readOutputs().first())
        return Prediction(scores(outputs), outputs, ready - begin, end - ready)
    }

    override fun close() = session.close()

    /** Softmax, with the labels. */
    private fun scores(outputs: FloatArray): List<Score> {
        val max = outputs.max()
        val exponentials = outputs.map { Math.exp((it - max).toDouble()) }
        val sum = exponentials.sum()
        return outputs.indices
            .map { Score(artifact.labels.getOrElse(it) { index -> "$index" }, (exponentials[it] / sum).toFloat(), outputs[it], it) }
            .sortedByDescending { it.output }
    }
}
