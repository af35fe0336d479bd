import org.jetbrains.kotlin.gradle.dsl.JvmTarget
import org.jetbrains.kotlin.gradle.dsl.KotlinVersion

plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
}

// ExecuTorch's library, which `inv android.build` extracts from an npm package.
val executorch = rootProject.file("../build/android/executorch")

android {
    namespace = "org.lastmile.inference"
    compileSdk = libs.versions.compile.sdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
        aarMetadata.minCompileSdk = libs.versions.min.sdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }
    testOptions.unitTests.isIncludeAndroidResources = true
    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.library.jvm.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.library.jvm.get())
    }
}

kotlin {
    jvmToolchain(libs.versions.jvm.get().toInt())
    coreLibrariesVersion = libs.versions.library.kotlin.get()
    compilerOptions {
        val level = KotlinVersion.fromVersion(libs.versions.library.kotlin.get().substringBeforeLast('.'))
        languageVersion = level
        apiVersion = level
        jvmTarget = JvmTarget.fromTarget(libs.versions.library.jvm.get())
        moduleName = "org.lastmile.inference"
        freeCompilerArgs.add("-Xsuppress-version-warnings")
        allWarningsAsErrors = true
    }
}

dependencies {
    // The app chooses its runtimes; this library checks at run time which are available.
    compileOnly(libs.litert)
    compileOnly(libs.nativeloader)
    compileOnly(files(executorch.resolve("classes.jar")))
    testImplementation(libs.junit)
    testImplementation(libs.robolectric)
}
