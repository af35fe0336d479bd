package org.lastmile.inference

import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.SystemDelegate
import java.io.File
import java.nio.ByteBuffer
import org.pytorch.executorch.DType as TorchType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecuTorchRuntime
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** ExecuTorch. The delegate is fixed when the model is exported, so there is none to choose. */
object ExecuTorchEngine : Engine {
    override val name = "executorch"
    override val suffix = ".pte"
    override val delegates = emptyList<String>()

    override fun unavailable(): String? =
        Engines.unavailable("ExecuTorch") { EValue::class.java } ?: try {
            initializeLoader()
            Engines.unavailable("ExecuTorch") { Module::class.java }
        } catch (error: LinkageError) {
            "ExecuTorch cannot be loaded on this device (${error.message})"
        }

    override fun load(file: File, options: Options): Session {
        if (options.delegate != null) {
            throw InferenceException("$name uses the delegate that the file was exported for; omit the delegate '${options.delegate}'")
        }
        val program = PteFile.read(file)
        initializeLoader()
        val module = wrapErrors { Module.load(file.path, Module.LOAD_MODE_MMAP, options.threads) }
        try {
            module.loadMethod(METHOD)
        } catch (error: RuntimeException) {
            module.destroy()
            throw InferenceException(error.message.orEmpty().lineSequence().first().ifEmpty { "$error" } + missingBackends(program), error)
        }
        return ExecuTorchSession(module, program)
    }

    private fun initializeLoader() {
        if (!NativeLoader.isInitialized()) NativeLoader.init(SystemDelegate())
    }

    /** Names the backends that the program needs and this build lacks. */
    private fun missingBackends(program: PteFile): String {
        val registered = ExecuTorchRuntime.getRegisteredBackends().toSet()
        val missing = program.backends - registered
        return if (missing.isEmpty()) "" else "; it was exported for ${missing.joinToString()}, and this build has ${registered.sorted().joinToString()}"
    }
}

private const val METHOD = "forward"

private class ExecuTorchSession(
    private val module: Module,
    private val program: PteFile
) : Session {
    override val inputs = program.inputs
    override val outputs = program.outputs
    private var inputBuffers = emptyArray<EValue>()
    private var results = emptyArray<EValue>()

    override val delegate: String get() = if ("XnnpackBackend" in program.backends) "xnnpack" else "cpu"

    override val copiesInput: Boolean get() = program.copiesInput

    override fun setInputs(buffers: List<ByteBuffer>) {
        if (buffers.size != inputs.size) throw InferenceException("the model has ${inputs.size} inputs, not ${buffers.size}")
        inputBuffers = wrapErrors { inputs.zip(buffers) { info, buffer -> EValue.from(toTensor(info, buffer)) }.toTypedArray() }
    }

    // Every run reads the buffers.
    override fun refill() = Unit

    override fun invoke() {
        results = wrapErrors { module.forward(*inputBuffers) }
    }

    override fun readOutputs(): List<ByteBuffer> = outputs.zip(results) { info, value -> toBuffer(info, value.toTensor()) }

    override fun close() = module.destroy()
}

private fun toTensor(info: TensorInfo, buffer: ByteBuffer): Tensor {
    val shape = LongArray(info.shape.size) { info.shape[it].toLong() }
    return when (info.dtype) {
        DType.FLOAT32 -> Tensor.fromBlob(buffer.asFloatBuffer(), shape)
        DType.INT8 -> Tensor.fromBlob(buffer, shape)
        DType.UINT8 -> Tensor.fromBlobUnsigned(buffer, shape)
        DType.INT32 -> Tensor.fromBlob(buffer.asIntBuffer(), shape)
        DType.INT64 -> Tensor.fromBlob(buffer.asLongBuffer(), shape)
    }
}

private fun toBuffer(info: TensorInfo, tensor: Tensor): ByteBuffer {
    val size = Math.toIntExact(tensor.numel())
    val bytes = info.copy(shape = listOf(size)).allocate()
    when (tensor.dtype()) {
        TorchType.FLOAT -> tensor.copyDataInto(bytes.asFloatBuffer())
        TorchType.INT8 -> tensor.copyDataInto(bytes.slice())
        TorchType.UINT8 -> tensor.copyDataIntoUnsigned(bytes.slice())
        TorchType.INT32 -> tensor.copyDataInto(bytes.asIntBuffer())
        TorchType.INT64 -> tensor.copyDataInto(bytes.asLongBuffer())
        else -> throw InferenceException("output ${info.name} is ${tensor.dtype()}; supported: ${DType.entries.joinToString { it.numpyName }}")
    }
    return bytes
}
