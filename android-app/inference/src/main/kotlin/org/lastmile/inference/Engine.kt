package org.lastmile.inference

import java.io.Closeable
import java.io.File
import java.nio.ByteBuffer

/**
 * How to run a model.
 *
 * @property delegate what executes the model: one of [Engine.delegates], or null for the engine's default.
 */
data class Options(val threads: Int = 1, val delegate: String? = null)

/** A runtime: [LiteRtEngine] or [ExecuTorchEngine]. */
interface Engine {
    /** The runtime's name in edge-bench. */
    val name: String

    /** The suffix of its model files, with the dot. */
    val suffix: String

    /** Valid values of [Options.delegate]. */
    val delegates: List<String>

    /** Why the runtime cannot be used, for example because this build or this processor lacks it; null if it can be used. */
    fun unavailable(): String?

    /** Loads a model file and allocates its memory; throws an [InferenceException] with the runtime's message if it fails. */
    fun load(file: File, options: Options = Options()): Session
}

/** A loaded model, ready to run. Not thread-safe: use it from one thread at a time. */
interface Session : Closeable {
    val inputs: List<TensorInfo>
    val outputs: List<TensorInfo>

    /** What executes the model: "xnnpack", another delegate, or "cpu" for the runtime's own kernels. May read the file: do not call it in timed code. */
    val delegate: String

    /** Whether [invoke] copies the inputs to the runtime's memory in every run, because the runtime has no other call. */
    val copiesInput: Boolean

    /** Sets one direct buffer per input, allocated with [TensorInfo.allocate]. Call it again after changing a buffer's content. */
    fun setInputs(buffers: List<ByteBuffer>)

    /** Copies the buffers of [setInputs] to the runtime's memory again, for a model that overwrites its input. */
    fun refill()

    /** Calls the runtime and nothing else: this is the call that is timed. Throws an [InferenceException] with the runtime's message. */
    fun invoke()

    /** A view of every output of the last run, valid until the next run. */
    fun readOutputs(): List<ByteBuffer>
}

/** The runtimes share no exception type but RuntimeException. Turns theirs into an [InferenceException] with a one-line message. */
internal inline fun <T> wrapErrors(body: () -> T): T =
    try {
        body()
    } catch (error: RuntimeException) {
        val lines = error.message.orEmpty().lines().map(String::trim).distinct() // TFLite repeats its messages
        throw InferenceException(lines.joinToString(" ").trim().ifEmpty { "$error" }, error)
    }

/** Runs [body]; closes the resource if it throws, because the garbage collector does not free native memory. */
internal inline fun <C : AutoCloseable, T> C.closeOnFailure(body: (C) -> T): T =
    try {
        body(this)
    } catch (error: Throwable) {
        close()
        throw error
    }

/** All engines, whether or not they are in this build. */
object Engines {
    val all: List<Engine> = listOf(LiteRtEngine, ExecuTorchEngine)

    /** The engine with that name; throws an [InferenceException] that lists the known names. */
    fun byName(name: String): Engine =
        all.find { it.name == name } ?: throw InferenceException("unknown runtime '$name'; known: ${all.joinToString { it.name }}")

    /** The engine that runs a file, found by the file's suffix. */
    fun forFile(name: String): Engine =
        all.find { name.endsWith(it.suffix) }
            ?: throw InferenceException("$name: unknown suffix; known: ${all.joinToString { "${it.suffix} (${it.name})" }}")

    /**
     * Why a runtime's class or the native library that it loads is unavailable; null if both are available.
     *
     * @param type the class, as a literal: R8 renames the class and the literal alike.
     */
    internal fun unavailable(
        runtime: String,
        type: () -> Class<*>
    ): String? =
        try {
            type().let { Class.forName(it.name, true, it.classLoader) } // initializes the class, which loads the library
            null
        } catch (error: LinkageError) {
            val cause = error.cause
            if (cause is ClassNotFoundException) {
                "$runtime is not in this build of the app (${cause.message})"
            } else { // no native library for this processor, or it fails to load
                "$runtime cannot be loaded on this device (${error.message ?: cause?.message})"
            }
        }
}
