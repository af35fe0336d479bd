package org.lastmile.inference

import java.io.Closeable

/** A class and what the model gives it: [score] is its share after softmax, [output] the raw value. */
data class Score(val label: String, val score: Float, val output: Float)

/** What came of one picture; times in nanoseconds. [scores] begin with the best. */
data class Answer(val scores: List<Score>, val outputs: FloatArray, val preparingNs: Long, val runningNs: Long)

/** An artifact, loaded; for one thread at a time. */
class Classifier(val artifact: Artifact, options: Options = Options()) : Closeable {
    private val session: Session
    private val input: TensorInfo
    private val buffer: java.nio.ByteBuffer

    /** How long loading took. */
    val loadNs: Long

    init {
        val engine = Engines.forFile(artifact.file.name)
        engine.missing()?.let { throw InferenceException(it) }
        val file = artifact.checked()
        val begin = System.nanoTime()
        session = engine.load(file, options)
        loadNs = System.nanoTime() - begin
        input =
            session.closedUnless {
                it.inputs.singleOrNull() ?: throw InferenceException("$file has ${it.inputs.size} inputs; a picture is one")
            }
        buffer = session.closedUnless { input.buffer() }
        session.set(listOf(buffer))
    }

    /** Prepares the pixels as the artifact says, runs, and names the classes. */
    fun classify(pixels: Pixels): Answer {
        val begin = System.nanoTime()
        input.fill(pixels.fitted(artifact.preprocessing).input(artifact.layout), buffer)
        session.set(listOf(buffer))
        val ready = System.nanoTime()
        session.invoke()
        val end = System.nanoTime()
        val outputs = session.outputs.first().real(session.get().first())
        return Answer(named(outputs), outputs, ready - begin, end - ready)
    }

    override fun close() = session.close()

    private fun named(outputs: FloatArray): List<Score> {
        val most = outputs.max()
        val shares = outputs.map { Math.exp((it - most).toDouble()) }
        val total = shares.sum()
        return outputs.indices
            .map { Score(artifact.labels.getOrElse(it) { index -> "$index" }, (shares[it] / total).toFloat(), outputs[it]) }
            .sortedByDescending { it.output }
    }
}
