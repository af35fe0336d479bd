package org.lastmile.inference

import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.SystemDelegate
import java.io.File
import java.nio.ByteBuffer
import org.pytorch.executorch.DType as TorchType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** ExecuTorch. What computes was decided when the model was exported; there is nothing to choose here. */
object ExecuTorchEngine : Engine {
    override val name = "executorch"
    override val suffix = ".pte"
    override val delegates = emptyList<String>()

    override fun missing(): String? =
        Engines.missing("org.pytorch.executorch.EValue", "ExecuTorch") ?: try {
            prepare()
            Engines.missing("org.pytorch.executorch.Module", "ExecuTorch")
        } catch (error: LinkageError) {
            "ExecuTorch cannot be loaded here (${error.message})"
        }

    override fun load(file: File, options: Options): Session {
        if (options.delegate != null) {
            throw InferenceException("$name runs a file with the delegate it was exported for; leave '${options.delegate}' out")
        }
        val program = PteFile.read(file)
        prepare()
        val module = explained { Module.load(file.path, Module.LOAD_MODE_MMAP, options.threads) }
        try {
            module.loadMethod(METHOD)
        } catch (error: RuntimeException) {
            module.destroy()
            throw InferenceException(error.message.orEmpty().lineSequence().first().ifEmpty { "$error" } + absent(program), error)
        }
        return ExecuTorchSession(module, program)
    }

    private fun prepare() {
        if (!NativeLoader.isInitialized()) NativeLoader.init(SystemDelegate())
    }

    /** The backends that a program calls and this build has not. */
    private fun absent(program: PteFile): String {
        val registered = org.pytorch.executorch.ExecuTorchRuntime.getRegisteredBackends().toSet()
        val gone = program.backends - registered
        return if (gone.isEmpty()) "" else "; it was exported for ${gone.joinToString()}, and this build has ${registered.sorted().joinToString()}"
    }
}

private const val METHOD = "forward"

private class ExecuTorchSession(
    private val module: Module,
    private val program: PteFile
) : Session {
    override val inputs = program.inputs
    override val outputs = program.outputs
    private var given = emptyArray<EValue>()
    private var results = emptyArray<EValue>()

    override val delegate: String get() = if ("XnnpackBackend" in program.backends) "xnnpack" else "cpu"

    override fun set(buffers: List<ByteBuffer>) {
        given = explained { inputs.zip(buffers) { info, buffer -> EValue.from(tensor(info, buffer)) }.toTypedArray() }
    }

    override fun invoke() {
        results = explained { module.forward(*given) }
    }

    override fun get(): List<ByteBuffer> = outputs.zip(results) { info, value -> content(info, value.toTensor()) }

    override fun close() = module.destroy()
}

private fun tensor(info: TensorInfo, buffer: ByteBuffer): Tensor {
    val shape = LongArray(info.shape.size) { info.shape[it].toLong() }
    return when (info.dtype) {
        DType.FLOAT32 -> Tensor.fromBlob(buffer.asFloatBuffer(), shape)
        DType.INT8 -> Tensor.fromBlob(buffer, shape)
        DType.UINT8 -> Tensor.fromBlobUnsigned(buffer, shape)
        DType.INT32 -> Tensor.fromBlob(buffer.asIntBuffer(), shape)
        DType.INT64 -> Tensor.fromBlob(buffer.asLongBuffer(), shape)
    }
}

private fun content(info: TensorInfo, tensor: Tensor): ByteBuffer {
    val size = Math.toIntExact(tensor.numel())
    val bytes = info.copy(shape = listOf(size)).buffer()
    when (tensor.dtype()) {
        TorchType.FLOAT -> tensor.copyDataInto(bytes.asFloatBuffer())
        TorchType.INT8 -> tensor.copyDataInto(bytes.slice())
        TorchType.UINT8 -> tensor.copyDataIntoUnsigned(bytes.slice())
        TorchType.INT32 -> tensor.copyDataInto(bytes.asIntBuffer())
        TorchType.INT64 -> tensor.copyDataInto(bytes.asLongBuffer())
        else -> throw InferenceException("output ${info.name} is ${tensor.dtype()}; known: ${DType.entries.joinToString { it.label }}")
    }
    return bytes
}
