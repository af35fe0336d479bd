package org.lastmile.inference

import java.io.Closeable
import java.io.File
import java.nio.ByteBuffer

/**
 * How a model is to run.
 *
 * @property delegate what computes: null for the engine's own choice, or one of [Engine.delegates].
 */
data class Options(val threads: Int = 1, val delegate: String? = null)

/** A runtime; one file each, [LiteRtEngine] and [ExecuTorchEngine]. */
interface Engine {
    /** edge-bench's name of the runtime. */
    val name: String

    /** The suffix of its files, with the dot. */
    val suffix: String

    /** What [Options.delegate] may say. */
    val delegates: List<String>

    /** Why it cannot be used: it is not in this build, or not for this processor; null where it can. */
    fun missing(): String?

    /** Loads a model file and allocates its memory, or throws an [InferenceException] with the runtime's own reason. */
    fun load(file: File, options: Options = Options()): Session
}

/** A loaded model, ready to run; for one thread at a time. */
interface Session : Closeable {
    val inputs: List<TensorInfo>
    val outputs: List<TensorInfo>

    /** What computes: "xnnpack", another delegate, or "cpu" for the runtime's own kernels. May read the file: not for timed code. */
    val delegate: String

    /** Takes one direct buffer an input, as [TensorInfo.buffer] makes it; the runtime reads it anew in every run. */
    fun set(buffers: List<ByteBuffer>)

    /** The bare call of the runtime and nothing else: this is what is timed. An [InferenceException] has the runtime's own reason. */
    fun invoke()

    /** A view of every output of the last run; it holds until the next. */
    fun get(): List<ByteBuffer>
}

/** Runtimes have no error in common, only RuntimeException; here theirs become ours, in one line. Costs nothing where all goes well. */
internal inline fun <T> explained(body: () -> T): T =
    try {
        body()
    } catch (error: RuntimeException) {
        val lines = error.message.orEmpty().lines().map(String::trim).distinct() // TFLite's come twice
        throw InferenceException(lines.joinToString(" ").trim().ifEmpty { "$error" }, error)
    }

/** What [body] makes of something open, which is closed where it makes nothing of it: its memory is none that Java frees. */
internal inline fun <C : AutoCloseable, T> C.closedUnless(body: (C) -> T): T =
    try {
        body(this)
    } catch (error: Throwable) {
        close()
        throw error
    }

/** The engines there are, in this build or not. */
object Engines {
    val all: List<Engine> = listOf(LiteRtEngine, ExecuTorchEngine)

    /** The engine of that name, or an [InferenceException] that lists the known ones. */
    fun named(name: String): Engine =
        all.find { it.name == name } ?: throw InferenceException("unknown runtime '$name'; known: ${all.joinToString { it.name }}")

    /** The engine for a file, by its suffix. */
    fun forFile(name: String): Engine =
        all.find { name.endsWith(it.suffix) }
            ?: throw InferenceException("$name: unknown suffix; known: ${all.joinToString { "${it.suffix} (${it.name})" }}")

    /** Whether a class and the native library that it loads are here; the reason where they are not. */
    internal fun missing(type: String, what: String): String? =
        try {
            Class.forName(type)
            null
        } catch (error: ClassNotFoundException) {
            "$what is not in this build of the app (${error.message})"
        } catch (error: LinkageError) { // there is no native library for this processor, or it cannot be loaded
            "$what cannot be loaded here (${error.message ?: error.cause?.message})"
        }
}
